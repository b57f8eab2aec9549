//! Three real members of etcd on this machine, with one node beside each of them, and wires between all that can be cut.
//!
//! ```text
//!   node 0 ──┬── wire ── member 0 ─┐         Whoever is cut off hears nothing; what was said meanwhile
//!   node 1 ──┼── wire ── member 1 ─┼ wires   arrives when the wire is whole again.
//!   node 2 ──┴── wire ── member 2 ─┘
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use oarlock_cluster::registry::ClusterId;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

use super::client::{Ask, Client};
use super::wire::{Answer, DeleteRangeRequest, Header, PutRequest, RangeRequest};
use super::{External, Settings, Tuning};
use crate::coordinator::conformance::Nodes;

pub(super) const MEMBERS: usize = 3;

/// As in earnest, but with less patience, and snapshots more often and in more parts.
pub(super) const TUNING: Tuning = Tuning {
    patience: Duration::from_millis(1_500),
    each: Duration::from_millis(300),
    sweep: Duration::from_millis(500),
    snapshot_every: 40,
    part_bytes: 100,
};

/// What takes longer hangs.
pub(super) const LONG: Duration = Duration::from_secs(30);

/// Six processes at a time are enough for a small machine.
static TURN: Mutex<()> = Mutex::new(());

/// Plays on a runtime of its own, one after the other.
pub(super) fn play<T>(future: impl Future<Output = T>) -> T {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}

// ----- messages that only tests send --------------------------------------------------------------------------

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<Header>,
    #[prost(uint64, tag = "4")]
    pub(super) leader: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CompactionRequest {
    #[prost(int64, tag = "1")]
    pub(super) revision: i64,
    #[prost(bool, tag = "2")]
    pub(super) physical: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Done {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<Header>,
}

impl Answer for StatusResponse {
    fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }
}

impl Answer for Done {
    fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }
}

impl Ask for CompactionRequest {
    type Answer = Done;
    const PATH: &str = "/etcdserverpb.KV/Compact";
}

impl Ask for DeleteRangeRequest {
    type Answer = Done;
    const PATH: &str = "/etcdserverpb.KV/DeleteRange";
}

// ----- wires --------------------------------------------------------------------------------------------------

/// Which wires are cut.
#[derive(Clone, Default)]
struct Cuts {
    /// Those who hear each other; none: all.
    together: Option<Vec<usize>>,
    /// A node and a member that do not.
    apart: Option<(usize, usize)>,
    /// A node that is heard by a member and does not hear it.
    answers: Option<(usize, usize)>,
    /// A node that is heard by all members and hears none.
    deaf: Option<usize>,
}

#[derive(Clone)]
struct Wires {
    cuts: watch::Sender<Cuts>,
    /// Members by the ids that etcd gave them.
    ids: Arc<Mutex<BTreeMap<String, usize>>>,
}

/// Who has made a connection.
#[derive(Clone)]
enum Caller {
    Node(usize),
    /// A member, by its id; none where it does not say.
    Member(Option<String>),
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    There,
    Back,
}

impl Wires {
    fn passes(&self, cuts: &Cuts, caller: &Caller, to: usize, way: Way) -> bool {
        let of = |pair| matches!((caller, pair), (Caller::Node(from), Some(pair)) if pair == (*from, to));
        let deaf = matches!(caller, Caller::Node(from) if cuts.deaf == Some(*from));
        if of(cuts.apart) || way == Way::Back && (of(cuts.answers) || deaf) {
            return false;
        }
        let Some(set) = &cuts.together else { return true };
        let from = match caller {
            Caller::Node(node) => Some(*node),
            Caller::Member(id) => {
                id.as_ref().and_then(|id| self.ids.lock().expect("no panic there").get(id).copied())
            }
        };
        from.is_some_and(|from| from == to || set.contains(&from) && set.contains(&to))
    }

    /// A wire to member `to` at `address`. All that come by it are `node`, or members.
    async fn to(&self, address: SocketAddr, node: Option<usize>, to: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let near = listener.local_addr().expect("an address");
        let wires = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(wires.clone().carry(stream, address, node, to));
            }
        });
        near
    }

    async fn carry(self, mut near: TcpStream, address: SocketAddr, node: Option<usize>, to: usize) {
        let mut begun = Vec::new();
        let caller = match node {
            Some(node) => Caller::Node(node),
            None => Caller::Member(introduction(&mut near, &mut begun).await),
        };
        self.whole(&caller, to, Way::There).await;
        let Ok(mut far) = TcpStream::connect(address).await else { return };
        if far.write_all(&begun).await.is_err() {
            return;
        }
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
        // As soon as one side ends, both do.
        tokio::select! {
            () = self.copy(near_in, far_out, &caller, to, Way::There) => {}
            () = self.copy(far_in, near_out, &caller, to, Way::Back) => {}
        }
    }

    async fn copy(
        &self,
        mut from: OwnedReadHalf,
        mut into: OwnedWriteHalf,
        caller: &Caller,
        to: usize,
        way: Way,
    ) {
        let mut bytes = vec![0; 16 << 10];
        while let Ok(read @ 1..) = from.read(&mut bytes).await {
            self.whole(caller, to, way).await;
            if into.write_all(&bytes[..read]).await.is_err() {
                return;
            }
        }
    }

    /// Until bytes get through.
    async fn whole(&self, caller: &Caller, to: usize, way: Way) {
        let mut cuts = self.cuts.subscribe();
        let _ = cuts.wait_for(|cuts| self.passes(cuts, caller, to, way)).await;
    }
}

/// Members say in the first request on a connection who they are, mostly.
async fn introduction(near: &mut TcpStream, begun: &mut Vec<u8>) -> Option<String> {
    let mut bytes = vec![0; 4 << 10];
    while !begun.windows(4).any(|end| end == b"\r\n\r\n") && begun.len() < 64 << 10 {
        match near.read(&mut bytes).await {
            Ok(read @ 1..) => begun.extend_from_slice(&bytes[..read]),
            _ => return None,
        }
    }
    let text = String::from_utf8_lossy(begun).to_ascii_lowercase();
    let (_, rest) = text.split_once("x-server-from: ")?;
    rest.split_whitespace().next().map(String::from)
}

// ----- members ------------------------------------------------------------------------------------------------

/// Where a member listens.
#[derive(Clone, Copy)]
struct Ports {
    client: SocketAddr,
    peer: SocketAddr,
}

/// Ends with the test, however that ends.
struct Member(Child);

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Three members, three nodes.
pub(super) struct Stage {
    directory: TempDir,
    wires: Wires,
    ports: Vec<Ports>,
    /// By which members hear each other.
    peers: Vec<SocketAddr>,
    /// By which a node reaches the members, its own first.
    reach: Vec<Vec<SocketAddr>>,
    members: Mutex<Vec<Option<Member>>>,
    nodes: Mutex<Vec<Option<External>>>,
    pub(super) tuning: Tuning,
}

impl Stage {
    /// Members and nodes, all running.
    pub(super) async fn new() -> Stage {
        let stage = Stage::empty(TUNING).await;
        for node in 0..MEMBERS {
            stage.start_node(node);
        }
        stage
    }

    /// Members that have a leader, and no nodes.
    pub(super) async fn empty(tuning: Tuning) -> Stage {
        // Somebody else may take a port before the member does.
        for _ in 0..5 {
            let stage = Stage::with_ports(tuning).await;
            (0..MEMBERS).for_each(|member| stage.start_member(member));
            if stage.ready().await {
                return stage;
            }
        }
        panic!("three members of etcd on this machine do not come to life");
    }

    async fn with_ports(tuning: Tuning) -> Stage {
        let wires = Wires { cuts: watch::Sender::default(), ids: Arc::default() };
        // Held together, so that none is given twice.
        let free: Vec<std::net::TcpListener> =
            (0..2 * MEMBERS).map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
        let addresses: Vec<SocketAddr> = free.iter().map(|port| port.local_addr().expect("one")).collect();
        drop(free);
        let ports: Vec<Ports> =
            addresses.chunks(2).map(|pair| Ports { client: pair[0], peer: pair[1] }).collect();
        let (mut peers, mut reach) = (Vec::new(), Vec::new());
        for (member, port) in ports.iter().enumerate() {
            peers.push(wires.to(port.peer, None, member).await);
        }
        for node in 0..MEMBERS {
            let mut own = Vec::new();
            for member in (0..MEMBERS).map(|step| (node + step) % MEMBERS) {
                own.push(wires.to(ports[member].client, Some(node), member).await);
            }
            reach.push(own);
        }
        Stage {
            directory: TempDir::new().expect("a directory"),
            wires,
            ports,
            peers,
            reach,
            members: Mutex::new((0..MEMBERS).map(|_| None).collect()),
            nodes: Mutex::new((0..MEMBERS).map(|_| None).collect()),
            tuning,
        }
    }

    pub(super) fn start_member(&self, member: usize) {
        let url = |address: &SocketAddr| format!("http://{address}");
        let all: Vec<String> =
            self.peers.iter().enumerate().map(|(n, peer)| format!("n{n}={}", url(peer))).collect();
        let path = |name: String| self.directory.path().join(name);
        let log =
            File::options().create(true).append(true).open(path(format!("{member}.log"))).expect("a log");
        let mut command = Command::new("etcd");
        command.args(["--name", &format!("n{member}")]).arg("--data-dir").arg(path(format!("{member}")));
        for (name, value) in [
            ("--listen-client-urls", url(&self.ports[member].client)),
            ("--advertise-client-urls", url(&self.ports[member].client)),
            ("--listen-peer-urls", url(&self.ports[member].peer)),
            ("--initial-advertise-peer-urls", url(&self.peers[member])),
            ("--initial-cluster", all.join(",")),
            ("--initial-cluster-token", format!("{}", self.directory.path().display())),
            // docs/design/cluster.md says why not etcd's own, which are four times as long.
            ("--heartbeat-interval", "50".into()),
            ("--election-timeout", "250".into()),
            ("--pre-vote", "true".into()),
        ] {
            command.arg(format!("{name}={value}"));
        }
        // Its own settings in our surroundings would mix with these.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD_") {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        let child = command.spawn().unwrap_or_else(|e| {
            panic!("etcd cannot be started ({e}). These tests need it: apt-get install etcd-server")
        });
        locked(&self.members)[member] = Some(Member(child));
    }

    /// At once, as if its machine had stopped.
    pub(super) fn kill_member(&self, member: usize) {
        drop(locked(&self.members)[member].take().expect("it lives"));
    }

    /// Until all members answer and agree on a leader. False if one has ended.
    async fn ready(&self) -> bool {
        let begin = Instant::now();
        while begin.elapsed() < LONG {
            let mut ids = BTreeMap::new();
            for member in 0..MEMBERS {
                if let Some(status) = self.status(member).await.filter(|status| status.leader != 0) {
                    ids.insert(format!("{:x}", status.header.unwrap_or_default().member_id), member);
                }
            }
            if ids.len() == MEMBERS {
                *self.wires.ids.lock().expect("no panic there") = ids;
                return true;
            }
            let ended = |member: &mut Option<Member>| {
                member.as_mut().is_some_and(|member| matches!(member.0.try_wait(), Ok(Some(_))))
            };
            if locked(&self.members).iter_mut().any(ended) {
                println!("{}", self.log(0));
                return false;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("etcd does not come to life; the log of its first member:\n{}", self.log(0));
    }

    fn log(&self, member: usize) -> String {
        std::fs::read_to_string(self.directory.path().join(format!("{member}.log"))).unwrap_or_default()
    }

    /// What a member says of itself, by no wire.
    pub(super) async fn status(&self, member: usize) -> Option<StatusResponse> {
        let ask = async {
            let endpoint = Endpoint::from_shared(format!("http://{}", self.ports[member].client)).ok()?;
            let mut grpc = Grpc::new(endpoint.connect().await.ok()?);
            grpc.ready().await.ok()?;
            let path = PathAndQuery::from_static("/etcdserverpb.Maintenance/Status");
            let codec = ProstCodec::<StatusRequest, StatusResponse>::default();
            Some(grpc.unary(tonic::Request::new(StatusRequest {}), path, codec).await.ok()?.into_inner())
        };
        tokio::time::timeout(Duration::from_millis(500), ask).await.ok()?
    }

    // ----- nodes ----------------------------------------------------------------------------------------------

    pub(super) fn settings(&self, node: usize, cluster: Option<ClusterId>) -> Settings {
        let endpoints = self.reach[node].iter().map(|address| format!("http://{address}")).collect();
        Settings { endpoints, prefix: "/oarlock/stage".into(), cluster, tuning: self.tuning }
    }

    pub(super) fn start_node(&self, node: usize) {
        let started = External::start(&self.settings(node, None)).expect("good settings");
        locked(&self.nodes)[node] = Some(started);
    }

    pub(super) fn kill_node(&self, node: usize) {
        locked(&self.nodes)[node].take().expect("it lives").stop();
    }

    /// The member that a node asks first at this moment.
    pub(super) fn asked_by(&self, node: usize) -> usize {
        let endpoints = self.settings(node, None).endpoints;
        let step = endpoints.iter().position(|endpoint| endpoint == self.at(node).endpoint());
        (node + step.expect("one of them")) % MEMBERS
    }

    /// A node and a member hear each other no more, all others do.
    pub(super) fn part(&self, node: usize, member: usize) {
        self.wires.cuts.send_replace(Cuts { apart: Some((node, member)), ..Cuts::default() });
    }

    /// A member hears a node, and the node does not hear it.
    pub(super) fn lose_answers(&self, node: usize, member: usize) {
        self.wires.cuts.send_replace(Cuts { answers: Some((node, member)), ..Cuts::default() });
    }

    // ----- a stranger's hands ---------------------------------------------------------------------------------

    /// Another client of the same etcd.
    pub(super) fn stranger(&self) -> Stranger {
        let endpoints: Vec<String> =
            self.ports.iter().map(|port| format!("http://{}", port.client)).collect();
        Stranger(Client::new(&endpoints, Duration::from_secs(2)).expect("good endpoints"))
    }
}

/// Writes what it likes.
pub(super) struct Stranger(Client);

impl Stranger {
    async fn ask<Q: Ask>(&self, request: Q) -> Q::Answer {
        let until = tokio::time::Instant::now() + LONG;
        self.0.ask(&request, until).await.expect("etcd answers")
    }

    pub(super) async fn put(&self, key: &str, value: &[u8]) {
        self.ask(PutRequest { key: key.into(), value: value.into() }).await;
    }

    pub(super) async fn delete(&self, key: &str) {
        self.ask(DeleteRangeRequest { key: key.into(), range_end: Vec::new() }).await;
    }

    /// All keys from one to another with their values, and etcd's revision.
    pub(super) async fn keys(&self, from: &str, to: &str) -> (Vec<(String, Vec<u8>)>, i64) {
        let read = RangeRequest { key: from.into(), range_end: to.into(), limit: 0 };
        let read = self.ask(read).await;
        let text = |key: Vec<u8>| String::from_utf8(key).expect("ours are text");
        let keys = read.kvs.into_iter().map(|kv| (text(kv.key), kv.value)).collect();
        (keys, read.header.expect("one").revision)
    }

    /// Forgets how everything was before now.
    pub(super) async fn compact(&self) {
        let (_, revision) = self.keys("/", "0").await;
        self.ask(CompactionRequest { revision, physical: true }).await;
    }
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Nodes for Stage {
    type Engine = External;

    /// Of an etcd with the times that it needs here: a lease waits for a second.
    const ELECTION: Duration = Duration::from_secs(1);

    fn at(&self, node: usize) -> External {
        locked(&self.nodes)[node].clone().expect("it lives")
    }

    async fn leader(&self) -> usize {
        let begin = Instant::now();
        while begin.elapsed() < LONG {
            let mut leaders = Vec::new();
            for member in 0..MEMBERS {
                let status = self.status(member).await.unwrap_or_default();
                if status.leader != 0 && status.leader == status.header.unwrap_or_default().member_id {
                    leaders.push(member);
                }
            }
            if let [leader] = leaders[..] {
                return leader;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("nobody leads");
    }

    fn cut(&self, together: &[usize]) {
        self.wires.cuts.send_replace(Cuts { together: Some(together.to_vec()), ..Cuts::default() });
    }

    fn deafen(&self, node: usize) {
        self.wires.cuts.send_replace(Cuts { deaf: Some(node), ..Cuts::default() });
    }

    fn heal(&self) {
        self.wires.cuts.send_replace(Cuts::default());
    }

    /// The node and the member beside it.
    async fn kill(&self, node: usize) {
        self.kill_node(node);
        self.kill_member(node);
    }

    async fn start(&self, node: usize) {
        self.start_member(node);
        self.start_node(node);
    }
}
