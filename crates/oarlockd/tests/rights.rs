//! Every cell of the table of rights, at the door as it is: callers as the kernel would attest them, a configuration, and a
//! whole node behind it. `docs/rights.md` has the table for people; it is read here.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use oarlock_cluster::registry::{Outcome, Registry};
use oarlock_layout::code::Code;
use oarlock_layout::codec::Wire;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{Epoch, Incarnation, NodeId, OwnerId, SessionId, SpaceId, TransactionId};
use oarlock_layout::message::look::At;
use oarlock_layout::message::session::{ConvertRequest, LockRequest, Reply, Request, VERSION};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::seal::{PublicKey, Seal};
use oarlock_layout::segment::{Geometry, Words};
use oarlock_layout::time::{Duration, Instant};
use oarlock_node::rights::{Access, Cell, Kind, Right, Role};
use oarlock_node::{Node, NodeConfig, Output, SpaceConfig};
use oarlock_shm::{Hub, Memory};
use oarlockd::config::{Config, Rights};
use oarlockd::host::door::Caller;
use oarlockd::host::seal::HostSeal;
use serde_json::Value;
use support::solo::Solo;
use support::{Held, Said, until};

// Who the numbers are. None of them needs to be known to the machine.
const DAEMON: u32 = 990;
const SOCKET_GROUP: u32 = 991;
const OWNER: u32 = 4001;
const GROUP: u32 = 4002;
const OPERATORS: u32 = 4003;
const STRANGER: u32 = 65_534;

// ----- the page ---------------------------------------------------------------------------------------------

/// What is written for people is what the code does: each kind, each role, each cell.
#[test]
fn the_page_has_the_table_of_the_code() {
    let page =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/rights.md")).unwrap();
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    };
    let rows: Vec<Vec<String>> = page.lines().filter(|l| l.starts_with('|')).map(cells).collect();
    let head = rows.iter().position(|row| row[0] == "needs").expect("a table of rights");
    let columns: Vec<Role> = rows[head][1..]
        .iter()
        .map(|name| *Role::ALL.iter().find(|role| role.name().eq_ignore_ascii_case(name)).expect(name))
        .collect();
    assert_eq!(columns, Role::ALL, "the columns");
    let written: BTreeMap<&str, &[String]> = rows[head + 2..]
        .iter()
        .take_while(|r| r.len() == 1 + Role::ALL.len())
        .map(|r| (r[0].as_str(), &r[1..]))
        .collect();
    assert_eq!(written.len(), Right::ALL.len(), "{written:?}");
    for right in Right::ALL {
        let line: Vec<&str> =
            written[right.name().to_lowercase().as_str()].iter().map(String::as_str).collect();
        let code: Vec<&str> = Role::ALL
            .iter()
            .map(|role| match role.cell(*right) {
                Cell::Never => "",
                Cell::Always => "yes",
                Cell::Bits(4) => "r",
                Cell::Bits(6) => "rw",
                Cell::Bits(other) => panic!("bits {other}"),
            })
            .collect();
        assert_eq!(line, code, "{right:?}");
    }
    for kind in Kind::ALL {
        let row = rows.iter().find(|row| row[0] == kind.name());
        let row = row.unwrap_or_else(|| panic!("{kind:?} is not on the page"));
        assert_eq!(row[2], kind.right().name().to_lowercase(), "{kind:?}");
    }
}

// ----- a node behind the door -------------------------------------------------------------------------------

fn config(given: &str) -> Config {
    let text = format!(
        "[node]\nname = \"solo\"\noperators = \"{OPERATORS}\"\n[cluster]\nname = \"alone\"\nsecret_file = \"secret\"\n\
         [[member]]\nname = \"solo\"\naddress = \"127.0.0.1:7401\"\n\
         public_key = \"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\"\n\
         [[space]]\nname = \"default\"\nowner = \"{OWNER}\"\ngroup = \"{GROUP}\"\n{given}"
    );
    Config::parse(Path::new("/node.toml"), &text).unwrap()
}

struct Stage {
    node: Node,
    registry: Registry,
    now: Instant,
    replies: Vec<Reply>,
    asked: usize,
    attached: usize,
    seen: String,
}

const ROOT: SessionId = SessionId(1);
const SUBJECT: SessionId = SessionId(2);
const SPACE: SpaceId = SpaceId(0);

impl Stage {
    fn new(config: &Config) -> Stage {
        let seal = HostSeal::new([7; 32], [8; 32]);
        let node_config = oarlock_node::Config {
            cluster: config.cluster.clone(),
            me: NodeId(0),
            nodes: oarlock_node::numbered([NodeConfig {
                name: "solo".into(),
                address: config.members[0].address,
                key: PublicKey(config.members[0].key),
            }]),
            spaces: vec![SpaceConfig {
                name: "default".into(),
                order: oarlock_node::Order::Passover,
                retain: false,
                resources_max: 8,
            }],
            shared: config.shared().0,
            incarnation: Incarnation(1),
            ceiling: Default::default(),
            seed: 1,
            shards: 1,
            circuits: Default::default(),
            forget_after: Duration::from_secs(10),
            deadlock_after: oarlock_layout::limit::DEADLOCK_AFTER,
        };
        let mut registry = Registry::new();
        assert_eq!(registry.apply(&config.founding(Epoch(0))), Outcome::Done);
        let geometry = Geometry { slots: 8, areas: 4, entries: 64 };
        let words: Vec<Box<dyn Words + Send>> = vec![Box::new(Hub::new(Memory::private(geometry, 1)))];
        let now = Instant::from_millis(1_000);
        let seal: Box<dyn Seal + Send> = Box::new(seal);
        let mut node = Node::new(now, node_config, seal, words);
        node.handle_applied(now, &registry);
        let mut stage =
            Stage { node, registry, now, replies: vec![], asked: 0, attached: 0, seen: String::new() };
        stage.settle();
        stage
    }

    fn settle(&mut self) {
        while let Some(output) = self.node.poll_output(self.now) {
            match output {
                Output::Reply { session: SUBJECT, packet } => {
                    self.replies.push(Reply::from_bytes(&packet).unwrap())
                }
                Output::Propose(command) => {
                    let outcome = self.registry.apply(&command);
                    self.node.handle_applied(self.now, &self.registry);
                    self.node.handle_answer(self.now, &command, outcome);
                }
                Output::StoreCeiling { ceiling } => self.node.handle_ceiling_stored(self.now, ceiling),
                Output::Asked { .. } => self.asked += 1,
                Output::Attached { .. } => self.attached += 1,
                Output::Looked { seen, .. } => {
                    let seen = seen.into_iter().next().and_then(|(_, seen)| seen);
                    self.seen = format!("{:?}", seen.expect("it looks at itself").rows);
                }
                _ => {}
            }
        }
    }

    fn say(&mut self, session: SessionId, request: &Request) {
        self.node.handle_session_packet(self.now, session, &request.to_bytes());
        self.settle();
    }

    /// Everything that is locked, waits, is written or attached here.
    fn state(&mut self) -> String {
        self.node.look(self.now, 1, SPACE, At::All);
        self.settle();
        let permit = self.node.permit(SUBJECT).is_some();
        format!("{} {} {} {permit}", self.seen, self.attached, self.asked)
    }
}

/// The callers, and which column of the table each is in a lockspace of the owner and group above.
fn callers() -> Vec<(&'static str, Caller, Role, bool)> {
    let caller = |uid, gid, groups: &[u32]| Caller { pid: 1, uid, gid, groups: groups.to_vec() };
    vec![
        ("root", caller(0, 0, &[]), Role::Root, false),
        ("the daemon's user", caller(DAEMON, 1, &[]), Role::Root, false),
        ("the owner", caller(OWNER, STRANGER, &[]), Role::Owner, false),
        ("the owner, of the group too", caller(OWNER, GROUP, &[7]), Role::Owner, false),
        ("of the group first", caller(STRANGER, GROUP, &[]), Role::Group, false),
        ("of the group besides", caller(STRANGER, STRANGER, &[5, GROUP, 9]), Role::Group, false),
        ("anybody", caller(STRANGER, STRANGER, &[5]), Role::Other, false),
        ("an operator", caller(STRANGER, STRANGER, &[OPERATORS]), Role::Other, true),
        ("an operator of the group", caller(STRANGER, GROUP, &[OPERATORS]), Role::Group, true),
        // In the group of the socket as all users of a node were, and given nothing.
        ("of the socket's group", caller(STRANGER, SOCKET_GROUP, &[]), Role::Other, false),
    ]
}

fn lock(handle: u32, mode: Mode, flags: Flags) -> Request {
    Request::Lock(LockRequest {
        handle,
        space: SPACE,
        name: Name::new(b"jobs").unwrap(),
        mode,
        flags,
        timeout_ms: 0,
        owner: OwnerId(0),
        transaction: TransactionId(0),
    })
}

fn convert(mode: Mode, flags: Flags, value: Option<[u8; 64]>) -> Request {
    Request::Convert(ConvertRequest { handle: 1, mode, flags, timeout_ms: 0, value })
}

/// What to try for a kind: what the subject holds before, and the request.
fn trials(kind: Kind) -> Vec<(Option<Mode>, Request)> {
    let none = Flags::empty();
    let value = Some([9; 64]);
    match kind {
        Kind::Hello => vec![(None, Request::Hello { version: VERSION, label: "x".into() })],
        Kind::Open => vec![(None, Request::Open { request: 1, space: "default".into() })],
        Kind::LockToRead => [Mode::NL, Mode::CR, Mode::PR].map(|mode| (None, lock(2, mode, none))).into(),
        Kind::LockToWrite => {
            let mut all: Vec<_> =
                [Mode::CW, Mode::PW, Mode::EX].map(|mode| (None, lock(2, mode, none))).into();
            // A second choice that writes, and a block that is to be spoilt.
            all.push((None, lock(2, Mode::PR, Flags::ALTCW)));
            all.push((None, lock(2, Mode::PR, Flags::IVVALBLK)));
            // One that would stay, and one under which its node could write.
            all.push((None, lock(2, Mode::PR, Flags::PERSISTENT)));
            all.push((None, lock(2, Mode::PR, Flags::LIKELYEX)));
            all
        }
        Kind::ConvertToRead => vec![
            (Some(Mode::NL), convert(Mode::CR, none, None)),
            (Some(Mode::NL), convert(Mode::PR, none, None)),
            (Some(Mode::EX), convert(Mode::PR, none, None)),
        ],
        Kind::ConvertToWrite => vec![
            (Some(Mode::NL), convert(Mode::EX, none, None)),
            (Some(Mode::NL), convert(Mode::CW, none, None)),
            (Some(Mode::PR), convert(Mode::PW, none, None)),
            (Some(Mode::NL), convert(Mode::PR, Flags::ALTCW, None)),
            (Some(Mode::EX), convert(Mode::NL, Flags::VALBLK, value)),
            (Some(Mode::EX), convert(Mode::NL, Flags::IVVALBLK, None)),
            (Some(Mode::NL), convert(Mode::PR, Flags::PERSISTENT, None)),
        ],
        Kind::Unlock => vec![(Some(Mode::EX), Request::Unlock { handle: 1, value: None, invalidate: false })],
        Kind::UnlockWriting => vec![
            (Some(Mode::EX), Request::Unlock { handle: 1, value, invalidate: false }),
            (Some(Mode::PW), Request::Unlock { handle: 1, value: None, invalidate: true }),
        ],
        // It waits behind root.
        Kind::Cancel => vec![(None, Request::Cancel { handle: 1 })],
        Kind::Ask => vec![(None, Request::Ask { request: 1, question: "{}".into() })],
        Kind::Attach => vec![(None, Request::Attach { request: 1, space: SPACE })],
        Kind::Knock => vec![(None, Request::Knock)],
        Kind::Detach => vec![(None, Request::Detach)],
        // Questions come in an `Ask` and are walked where they are answered, pages and peers likewise.
        Kind::Status
        | Kind::Counters
        | Kind::Locks
        | Kind::Purge
        | Kind::Branches
        | Kind::Branch
        | Kind::Fitness
        | Kind::Deafen
        | Kind::Failovers
        | Kind::Deadlocks
        | Kind::Registry
        | Kind::Events
        | Kind::Backup
        | Kind::Evict
        | Kind::Drain
        | Kind::Unfence
        | Kind::CreateToken
        | Kind::Tokens
        | Kind::RevokeToken
        | Kind::Leave
        | Kind::Remove
        | Kind::Stamp
        | Kind::Keys
        | Kind::RotateKey
        | Kind::Restart
        | Kind::Metrics
        | Kind::Health
        | Kind::Statement
        | Kind::Decision
        | Kind::Handover
        | Kind::Talk
        | Kind::Search
        | Kind::Coordination => vec![],
    }
}

/// Answers that mean yes.
fn granted(reply: &Reply) -> bool {
    !matches!(reply, Reply::Denied { .. } | Reply::Failed { .. } | Reply::Refused { .. } | Reply::Lost { .. })
}

fn code(reply: &Reply) -> Option<Code> {
    match reply {
        Reply::Denied { why, .. } | Reply::Failed { why, .. } => Some(why.code),
        _ => None,
    }
}

/// I22, M11: each caller, each mode a lockspace can have, each request, each way to ask for it: what is allowed is done, and what
/// is not changes nothing.
#[test]
fn every_cell_of_the_door_holds() {
    let mut cells = 0;
    for mode in modes() {
        let config = config(&format!("mode = \"{mode:04o}\"\n"));
        let rights = Rights::of(&config, DAEMON, SOCKET_GROUP).unwrap();
        for (name, caller, role, operator) in callers() {
            let who = rights.who(&caller);
            let has = |right| role.has(right, mode) || operator && Role::Operator.has(right, mode);
            let enters = role == Role::Root || operator || has(Right::Look) || caller.gid == SOCKET_GROUP;
            assert_eq!(rights.admits(&who), enters, "{name} at a door of mode {mode:04o}");
            if !enters {
                continue;
            }
            for kind in Kind::ALL {
                for (held, request) in trials(*kind) {
                    assert_eq!(Kind::of(&request), *kind, "{request:?}");
                    cells += 1;
                    let what = format!("{name} in mode {mode:04o}: {kind:?} by {request:?}");
                    cell(&config, &rights, &who, *kind, held, &request, has(kind.right()), &what);
                }
            }
        }
    }
    assert!(cells > 4_000, "{cells} cells were walked");
}

fn modes() -> Vec<u16> {
    let digits = [0, 4, 6];
    let mut modes = vec![];
    for owner in digits {
        for group in digits {
            modes.extend(digits.map(|other| owner << 6 | group << 3 | other));
        }
    }
    modes
}

#[allow(clippy::too_many_arguments)]
fn cell(
    config: &Config,
    rights: &Rights,
    who: &oarlock_node::rights::Who,
    kind: Kind,
    held: Option<Mode>,
    request: &Request,
    allowed: bool,
    what: &str,
) {
    let mut stage = Stage::new(config);
    let now = stage.now;
    let hello = Request::Hello { version: VERSION, label: "x".into() };
    stage.node.handle_session_opened(now, ROOT, 1, oarlock_node::rights::Who::root());
    stage.node.handle_session_opened(now, SUBJECT, 2, who.clone());
    stage.say(ROOT, &hello);
    if kind == Kind::Hello {
        stage.say(SUBJECT, &hello);
        assert!(matches!(stage.replies[..], [Reply::Welcome { .. }]), "{what}: {:?}", stage.replies);
        return;
    }
    stage.say(SUBJECT, &hello);
    // What it holds it was given while it could take it: to lose a right is not to get rid of it.
    let open = Access { mode: 0o666, ..Access::default() };
    stage.node.give(vec![open]);
    match kind {
        Kind::Cancel => {
            stage.say(ROOT, &lock(1, Mode::EX, Flags::empty()));
            stage.say(SUBJECT, &lock(1, Mode::EX, Flags::empty()));
        }
        _ => {
            if let Some(mode) = held {
                stage.say(SUBJECT, &lock(1, mode, Flags::empty()));
                assert!(
                    stage.replies.iter().any(|r| matches!(r, Reply::Granted(_))),
                    "{what}: the stage is set"
                );
            }
        }
    }
    stage.node.give(rights.accesses().to_vec());
    stage.replies.clear();
    let before = stage.state();
    stage.say(SUBJECT, request);
    let after = stage.state();
    let replies = std::mem::take(&mut stage.replies);
    if !allowed {
        assert_eq!(after, before, "{what} is not allowed and changes something");
        let codes: Vec<_> = replies.iter().map(code).collect();
        assert_eq!(codes, [Some(Code::SpaceDenied)], "{what}: {replies:?}");
        return;
    }
    // A cancelled request fails, which is what was asked for.
    let yes = |r: &Reply| granted(r) || kind == Kind::Cancel && code(r) == Some(Code::Cancelled);
    assert!(replies.iter().all(yes), "{what} is allowed: {replies:?}");
    match kind {
        // They change nothing; that they were taken is their whole answer.
        Kind::Knock | Kind::Detach => assert_eq!(replies, [], "{what}"),
        Kind::Open => assert!(matches!(replies[..], [Reply::Opened { .. }]), "{what}: {replies:?}"),
        _ => assert_ne!(after, before, "{what} is allowed and does nothing"),
    }
}

/// Names of lockspaces that somebody may not look at are not told to whoever guesses.
#[test]
fn who_asks_for_what_is_not_there_hears_of_what_he_may_see() {
    for (mode, words) in
        [("0660", "this cluster has 1 that this user may not look at"), ("0664", "has default")]
    {
        let config = config(&format!("mode = \"{mode}\"\n"));
        let rights = Rights::of(&config, DAEMON, SOCKET_GROUP).unwrap();
        let mut stage = Stage::new(&config);
        stage.node.give(rights.accesses().to_vec());
        let caller = Caller { pid: 1, uid: STRANGER, gid: SOCKET_GROUP, groups: vec![] };
        stage.node.handle_session_opened(stage.now, SUBJECT, 1, rights.who(&caller));
        stage.say(SUBJECT, &Request::Hello { version: VERSION, label: "x".into() });
        stage.say(SUBJECT, &Request::Open { request: 1, space: "defolt".into() });
        let Some(Reply::Denied { why, .. }) = stage.replies.last() else { panic!("{:?}", stage.replies) };
        assert_eq!(why.code, Code::UnknownSpace);
        assert!(why.text.contains(words), "{}", why.text);
    }
}

// ----- other users, really ----------------------------------------------------------------------------------

/// Runs the binary as somebody else; none if this process may not.
struct As {
    binary: PathBuf,
    socket: PathBuf,
}

impl As {
    fn command(&self, uid: u32, gid: u32, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .env_clear()
            .env("OARLOCK_SOCKET", &self.socket)
            .env("NO_COLOR", "1")
            .env("PATH", "/usr/bin:/bin");
        command.current_dir("/").uid(uid).gid(gid).args(args).stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn run(&self, uid: u32, gid: u32, args: &[&str]) -> Said {
        Said::of(self.command(uid, gid, args).output().expect("oarlock runs"))
    }
}

/// Other users of this machine at the socket of a real node: what they may do is done, what not is refused with 77 and a code,
/// and what they may not see is left out and counted.
#[test]
fn other_users_get_what_is_given_to_them() {
    if oarlockd::host::people::me() != 0 {
        return eprintln!("skipped: only root can run programs as other users");
    }
    let mut solo = Solo::new(&format!(
        "[[space]]\nname = \"open\"\nowner = \"{OWNER}\"\ngroup = \"{GROUP}\"\nmode = \"0664\"\n\
         [[space]]\nname = \"closed\"\nowner = \"{OWNER}\"\nmode = \"0600\"\n"
    ));
    let text = solo.read().replace("[cluster]", &format!("operators = \"{OPERATORS}\"\n[cluster]"));
    solo.write(&text);
    // The directory of the test and the binary are for this user alone, as temporary directories are.
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    open(solo.dir.path());
    let place = As { binary: solo.path("oarlock"), socket: solo.socket() };
    fs::copy(env!("CARGO_BIN_EXE_oarlock"), &place.binary).unwrap();
    open(&place.binary);
    solo.start();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&solo.socket()), mode(&solo.path("run"))), (0o666, 0o751));

    let lock = |uid, gid, space: &str, mode: &str| {
        place.run(uid, gid, &["lock", "--space", space, "-m", mode, "r", "--", "true"])
    };
    // Owner and group of `open` write, everybody reads.
    lock(OWNER, STRANGER, "open", "EX").expect(0, &[]);
    lock(STRANGER, GROUP, "open", "EX").expect(0, &[]);
    lock(STRANGER, STRANGER, "open", "PR").expect(0, &[]);
    let denied = lock(STRANGER, STRANGER, "open", "EX");
    denied.expect(77, &["OAR-2207", "uid 65534", "\"open\"", "0664", "oarlock space ls"]);
    // `closed` is its owner's, `default` the node's.
    lock(OWNER, STRANGER, "closed", "EX").expect(0, &[]);
    lock(STRANGER, GROUP, "closed", "PR").expect(77, &["OAR-2207"]);
    lock(OWNER, STRANGER, "default", "PR").expect(77, &["OAR-2207"]);
    lock(0, 0, "closed", "EX").expect(0, &[]);

    // What is held is seen by whoever may look, and by nobody else.
    let held = place.command(OWNER, STRANGER, &["lock", "-q", "--space", "closed", "r", "--", "sleep", "60"]);
    let mut held = held;
    let _held = Held(held.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let look = |uid, gid| place.run(uid, gid, &["locks", "ls", "--space", "closed"]);
    until("it is held", || look(0, 0).out.contains("in use"));
    for words in
        [vec!["locks", "ls"], vec!["locks", "show", "r"], vec!["locks", "why", "r"], vec!["locks", "tree"]]
    {
        let args: Vec<&str> = words.iter().copied().chain(["--space", "closed"]).collect();
        let said = place.run(STRANGER, STRANGER, &args).expect(77, &["OAR-2207", "may not look at"]);
        assert!(!said.out.contains("in use"), "{}", said.out);
        place.run(STRANGER, OPERATORS, &args).expect(0, &[]);
    }
    let listed =
        place.run(STRANGER, STRANGER, &["space", "ls", "-o", "json"]).expect(0, &["2 lockspaces left out"]);
    let document: Value = listed.json();
    assert_eq!((&document["hidden_spaces"], &document["spaces"][0]["name"]), (&2.into(), &"open".into()));
    assert_eq!(document["spaces"][0]["yours"], "r");
    place.run(STRANGER, STRANGER, &["status"]).expect(0, &["open (passover), 2 lockspaces left out"]);
    place.run(STRANGER, STRANGER, &["space", "show", "closed"]).expect(2, &["2 lockspaces left out"]);
    place.run(STRANGER, OPERATORS, &["space", "show", "closed"]).expect(0, &["0600", "look, and no more"]);
    place.run(OWNER, STRANGER, &["space", "ls"]).expect(0, &["closed", "open", "1 lockspace left out"]);

    // To change the cluster is the operators'.
    place.run(STRANGER, STRANGER, &["node", "drain", "solo"]).expect(77, &["OAR-1110", "operators"]);
    place.run(OWNER, GROUP, &["node", "drain", "solo"]).expect(77, &["OAR-1110"]);
    let drained = || solo.run(&["node", "ls", "-o", "json"]).json()["members"][0]["drained"] == true;
    assert!(!drained(), "who may not changes nothing");
    place.run(STRANGER, OPERATORS, &["node", "drain", "solo"]).expect(0, &[]);
    assert!(drained());
    lock(STRANGER, OPERATORS, "closed", "EX").expect(77, &["OAR-2207"]);

    // Also by a group that is one of many.
    let many: Vec<String> = (5_000..5_200).chain([OPERATORS]).map(|group| group.to_string()).collect();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--groups", &many.join(",")]).arg(&place.binary);
    command.args(["node", "undrain", "solo"]).env("OARLOCK_SOCKET", &place.socket);
    Said::of(command.output().expect("setpriv runs")).expect(0, &[]);
    assert!(!drained());
}

/// A node whose lockspaces are as they always were keeps its socket for its user and group.
#[test]
fn who_gives_nothing_away_opens_nothing() {
    let mut solo = Solo::new("");
    solo.start();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&solo.socket()), mode(&solo.path("run"))), (0o660, 0o750));
    solo.run(&["space", "show"]).expect(0, &["mode 0660", "take locks to read and to write in"]);
}

/// Names that the machine does not know are found before anything starts.
#[test]
fn names_that_nobody_has_are_a_mistake_in_the_configuration() {
    for (key, kind) in [("owner", "user"), ("group", "group")] {
        let solo = Solo::new(&format!("[[space]]\nname = \"x\"\n{key} = \"nobody-is-called-so\"\n"));
        let words = ["OAR-1201", "nobody-is-called-so", &format!("knows no {kind}")];
        Said::of(solo.at().args(["config", "check"]).arg(solo.config()).output().unwrap()).expect(78, &words);
        solo.serve().expect(78, &words);
    }
}
