//! Network namespaces, joined by a bridge in one of their own, and the weather between them.
//!
//! ```text
//!   node 0 ─ eth0 ─┐
//!   node 1 ─ eth0 ─┼─ bridge        10.77.0.1, .2, …; members of etcd are .200, .201 and .202
//!   etcd 0 ─ eth0 ─┘
//! ```
//!
//! Nothing is changed in the namespace of the test.

pub(crate) mod cluster;
pub(crate) mod load;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Set where no namespaces can be made even by root, as in many containers.
const WITHOUT: &str = "OARLOCK_WITHOUT_NAMESPACES";

/// Members of etcd.
pub(crate) const ETCDS: usize = 3;
/// The end of the first one's address.
const ETCD: u8 = 200;

/// Namespaces that go when this is dropped.
pub(crate) struct Net {
    tag: String,
    pub(crate) nodes: usize,
    made: Vec<String>,
}

impl Net {
    /// Makes them; none, with the reason printed, where nobody but root could, or where somebody says that they are not wanted.
    ///
    /// # Panics
    /// If root cannot: what is skipped unasked looks like what has held.
    pub(crate) fn or_say_why(nodes: usize) -> Option<Net> {
        let unwanted = std::env::var_os(WITHOUT).map(|_| format!("{WITHOUT} is set"));
        let barred =
            || (!rustix::process::geteuid().is_root()).then(|| "network namespaces need root".into());
        if let Some(why) = unwanted.or_else(barred) {
            println!("skipped: {why}");
            return None;
        }
        Some(Net::new(nodes).unwrap_or_else(|why| panic!("{why}; or set {WITHOUT}=1")))
    }

    fn new(nodes: usize) -> Result<Net, String> {
        static NETS: AtomicU32 = AtomicU32::new(0);
        for (program, package) in [("ip", "iproute2"), ("nft", "nftables")] {
            let found = Command::new(program).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
            found.map_err(|e| format!("{program} cannot be run ({e}): apt-get install {package}"))?;
        }
        let tag = format!("oar{}-{}", std::process::id(), NETS.fetch_add(1, Ordering::Relaxed));
        let mut net = Net { tag, nodes, made: Vec::new() };
        let hub = net.make("hub")?;
        run(&format!("ip -n {hub} link add bridge type bridge"))?;
        run(&format!("ip -n {hub} link set bridge up"))?;
        for place in 0..nodes + ETCDS {
            let (name, last) = (net.name(place), net.last(place));
            let space = net.make(&name)?;
            let (port, address) = (format!("port{last}"), address(last));
            run(&format!("ip -n {hub} link add {port} type veth peer name eth0 netns {space}"))?;
            run(&format!("ip -n {hub} link set {port} master bridge up"))?;
            run(&format!("ip -n {space} addr add {address}/24 dev eth0"))?;
            run(&format!("ip -n {space} link set eth0 up"))?;
            run(&format!("ip -n {space} link set lo up"))?;
        }
        // Whether the kernel has what weather is made of.
        run(&format!("ip netns exec {} nft add table inet weather", net.space("0")))?;
        Ok(net)
    }

    fn make(&mut self, name: &str) -> Result<String, String> {
        let space = self.space(name);
        run(&format!("ip netns add {space}"))?;
        self.made.push(space.clone());
        Ok(space)
    }

    /// Where a member of etcd is.
    pub(crate) const fn etcd(&self, member: usize) -> usize {
        self.nodes + member
    }

    /// Places are nodes first, then members of etcd.
    fn name(&self, place: usize) -> String {
        match place.checked_sub(self.nodes) {
            None => place.to_string(),
            Some(member) => format!("etcd{member}"),
        }
    }

    /// The end of its address.
    fn last(&self, place: usize) -> u8 {
        match place.checked_sub(self.nodes) {
            None => place as u8 + 1,
            Some(member) => ETCD + member as u8,
        }
    }

    fn space(&self, name: &str) -> String {
        format!("{}-{name}", self.tag)
    }

    /// A command that runs there, and that the kernel kills when the test ends, however it ends.
    pub(crate) fn command(&self, place: usize, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        let space = self.space(&self.name(place));
        command.args(["--pdeathsig", "KILL", "ip", "netns", "exec", &space, program]);
        command
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for space in &self.made {
            let _ = run(&format!("ip netns del {space}"));
        }
    }
}

/// Of whoever has this end of an address.
pub(crate) fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, last)
}

fn run(line: &str) -> Result<(), String> {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().expect("a program"));
    let output = command.args(words).stdin(Stdio::null()).output().map_err(|e| format!("{line}: {e}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// What comes through, by rules at whoever receives.
pub(crate) struct Weather<'a> {
    pub(crate) net: &'a Net,
    /// For each place, of which others nothing arrives.
    deaf: Vec<BTreeSet<usize>>,
    /// For each place, how much of what arrives is lost, in percent.
    loss: Vec<u8>,
}

impl<'a> Weather<'a> {
    pub(crate) fn new(net: &'a Net) -> Weather<'a> {
        let places = net.nodes + ETCDS;
        Weather { net, deaf: vec![BTreeSet::new(); places], loss: vec![0; places] }
    }

    /// Two hear each other no more.
    pub(crate) fn cut(&mut self, a: usize, b: usize) {
        self.deafen(a, b);
        self.deafen(b, a);
    }

    /// One does not hear another any more.
    pub(crate) fn deafen(&mut self, who: usize, whom: usize) {
        self.deaf[who].insert(whom);
        self.apply(who);
    }

    /// A node does not hear etcd any more.
    pub(crate) fn cut_off_from_etcd(&mut self, node: usize) {
        (0..ETCDS).for_each(|member| self.deafen(node, self.net.etcd(member)));
    }

    /// Of these and all others each hears only its own.
    pub(crate) fn part(&mut self, these: &[usize]) {
        for others in (0..self.deaf.len()).filter(|place| !these.contains(place)) {
            these.iter().for_each(|place| self.cut(*place, others));
        }
    }

    /// So much of what comes to a node is lost.
    pub(crate) fn lose(&mut self, node: usize, percent: u8) {
        self.loss[node] = percent;
        self.apply(node);
    }

    /// Everything comes through.
    pub(crate) fn calm(&mut self) {
        for place in 0..self.deaf.len() {
            self.deaf[place].clear();
            self.loss[place] = 0;
            self.apply(place);
        }
    }

    fn apply(&self, place: usize) {
        let drop = |other: &usize| format!("ip saddr {} drop", address(self.net.last(*other)));
        let mut rules: Vec<String> = self.deaf[place].iter().map(drop).collect();
        if self.loss[place] > 0 {
            rules.push(format!("numgen random mod 100 < {} drop", self.loss[place]));
        }
        // In one transaction: the table is there, goes, and comes back.
        let script = format!(
            "table inet weather\ndelete table inet weather\ntable inet weather {{ chain input {{\n\
             type filter hook input priority 0; policy accept;\n{}\n}}\n}}\n",
            rules.join("\n")
        );
        let mut nft = self.net.command(place, "nft");
        nft.args(["-f", "-"]).stdin(Stdio::piped());
        let mut child = nft.spawn().unwrap();
        child.stdin.take().expect("a pipe").write_all(script.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "nft refuses {script}");
    }
}
