use super::*;
use std::path::Path;

const A: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const B: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";

fn text(node: &str, rest: &str) -> String {
    format!(
        "[node]\nname = \"a\"\n{node}\n[cluster]\nname = \"harbour\"\nsecret_file = \"secret\"\n\
         [[member]]\nname = \"a\"\naddress = \"10.0.0.11:7401\"\npublic_key = \"{A}\"\n\
         [[member]]\nname = \"b\"\naddress = \"10.0.0.12:7401\"\npublic_key = \"{B}\"\n{rest}"
    )
}

fn parse(text: &str) -> Result<Config> {
    Config::parse(Path::new("/etc/oarlock/oarlock.toml"), text)
}

#[track_caller]
fn refused(text: &str, code: Code, words: &[&str]) {
    let problem = parse(text).expect_err(text);
    assert_eq!(problem.code, code, "{problem}");
    let printed = problem.to_string();
    for word in words {
        assert!(printed.contains(word), "`{word}` is not in:\n{printed}");
    }
}

#[test]
fn defaults_are_enough() {
    let c = parse(&text("", "")).unwrap();
    assert_eq!((c.name(), c.me, c.listen.to_string()), ("a", NodeId(0), "10.0.0.11:7401".into()));
    assert_eq!(c.socket, Path::new(SYSTEM_SOCKET));
    assert_eq!(c.key_file, Path::new("/var/lib/oarlock/node.key"));
    assert_eq!(c.secret_file, Path::new("/etc/oarlock/secret"));
    assert_eq!(c.spaces.len(), 1);
    assert_eq!((c.spaces[0].name.as_str(), c.spaces[0].order), ("default", Order::Passover));
    assert!(c.offload && c.segments && c.api.is_none());
}

/// Whoever has the same configuration founds the same cluster, whichever member it is and whatever it has stored.
#[test]
fn members_of_one_configuration_found_one_cluster() {
    use oarlock_cluster::registry::{self, Command, Outcome, Registry};
    use oarlock_layout::id::{Epoch, SpaceId};

    let spaces = "[[space]]\nname = \"x\"\norder = \"strict\"\nretain = false\nresources_max = 7\n";
    let a = parse(&text("", spaces)).unwrap();
    let b = parse(&text("shards = 1\nlisten = \"0.0.0.0:7401\"", spaces)).unwrap();
    let other = parse(&text("", "")).unwrap();
    let mut registry = Registry::new();
    assert_eq!(registry.apply(&a.founding(Epoch(4))), Outcome::Done);
    assert_eq!(registry.apply(&b.founding(Epoch(0))), Outcome::Already);
    assert!(matches!(registry.apply(&other.founding(Epoch(4))), Outcome::Refused(_)));
    for (member, known) in a.members.iter().zip(registry.members()) {
        assert_eq!((&member.name, member.address, member.key), (&known.name, known.address, known.key.0));
    }
    let x = registry.spaces().find(|space| space.id == SpaceId(1)).unwrap();
    assert_eq!((x.name.as_str(), x.settings.order), ("x", registry::Order::Strict));
    assert_eq!((x.settings.retain, x.settings.resources_max, x.settings.value), (false, 7, 64));
    let Command::Init { members, .. } = a.founding(Epoch(0)) else { panic!("a founding is an Init") };
    assert_eq!(members.len(), 2);
}

#[test]
fn a_described_default_space_stays_the_first() {
    let c = parse(&text(
        "",
        "[[space]]\nname = \"x\"\norder = \"strict\"\n[[space]]\nname = \"default\"\nretain = false\n",
    ))
    .unwrap();
    let spaces: Vec<_> = c.spaces.iter().map(|s| (s.name.as_str(), s.order, s.retain)).collect();
    assert_eq!(spaces, [("default", Order::Passover, false), ("x", Order::Strict, true)]);
}

#[test]
fn unknown_keys_are_refused_with_a_suggestion_and_a_line() {
    refused(
        &text("lisen = \"10.0.0.11:7401\"", ""),
        Code::UnknownKey,
        &["oarlock.toml:3:1", "`lisen`", "`listen`?"],
    );
    refused(&text("", "[locks]\nx = 1\n"), Code::UnknownKey, &["`locks`", "known here"]);
    refused(&text("", "[[space]]\nname = \"x\"\nordr = \"strict\"\n"), Code::UnknownKey, &["`order`?"]);
}

#[test]
fn bad_values_name_their_line_and_reason() {
    refused(
        &text("", "[[space]]\nname = \"x\"\norder = \"stricd\"\n"),
        Code::BadConfig,
        &["`stricd`", "`strict`?"],
    );
    refused(&text("listen = \"10.0.0.11\"", ""), Code::BadConfig, &["3:10", "10.0.0.11", "a port"]);
    refused(&text("listen = \"10.0.0.11:0\"", ""), Code::BadConfig, &["needs a port"]);
    refused(&text("api = \"10.0.0.11:7400\"", ""), Code::BadConfig, &["loopback"]);
    refused(&text("shards = 0", ""), Code::BadConfig, &["shards"]);
    refused(&text("shards = 2", ""), Code::BadConfig, &["oarlock.toml:3:10", "shards cannot be 2", "only 1"]);
    refused(&text("", "[[space]]\nname = \"x\"\nvalue = 32\n"), Code::BadConfig, &["64 bytes"]);
    refused(&text("", "[[space]]\nname = \"x\"\nresources_max = 0\n"), Code::BadConfig, &["at least 1"]);
    refused(&text("", "[[space]]\nname = \"a b\"\n"), Code::BadConfig, &["`a b`"]);
    refused(&text("", "[[space]]\nname = \"x\"\n[[space]]\nname = \"x\"\n"), Code::BadConfig, &["twice"]);
    refused("[node", Code::BadConfig, &["oarlock.toml:1"]);
    refused("", Code::BadConfig, &["the key `node` is missing", "no default"]);
    refused(&text("deadlock_search = \"5ms\"", ""), Code::BadConfig, &["3:19", "from 10ms to 1min"]);
    refused(&text("deadlock_search = \"soon\"", ""), Code::BadConfig, &["3:19", "`soon`"]);
    refused(&text("spin = 3", ""), Code::BadConfig, &["3:8", "another kind of value"]);
}

#[test]
fn members_must_differ_and_include_this_node() {
    let other = text("", "").replace("name = \"a\"\n\n", "name = \"bb\"\n\n");
    refused(&other, Code::BadConfig, &["no [[member]] is", "`b`?"]);
    refused(&text("", "").replace(B, A), Code::BadConfig, &["public key of `a`"]);
    refused(&text("", "").replace("10.0.0.12", "10.0.0.11"), Code::BadConfig, &["address of `a`"]);
    let b_at = |address: &str| text("", "").replace("10.0.0.12:7401", address);
    refused(&b_at("0.0.0.0:7401"), Code::BadConfig, &["address of `b`", "no machine's"]);
    refused(&b_at("224.0.0.7:7401"), Code::BadConfig, &["no machine's"]);
    refused(&b_at("[fd00::2]:7401"), Code::BadConfig, &["`b` and `a` cannot send"]);
    refused(&text("listen = \"[::]:7401\"", ""), Code::BadConfig, &["oarlock.toml:3:10", "cannot send"]);
    assert!(parse(&text("listen = \"0.0.0.0:7401\"", "")).is_ok());
    refused(&text("", "").replace(B, "nonsense"), Code::BadConfig, &["not a key", "key show"]);
}

#[test]
fn the_shared_number_names_what_differs() {
    let base = parse(&text("", "")).unwrap();
    let shared = base.shared();
    assert_eq!(shared.differing(shared), Vec::<&str>::new());

    // What concerns this node alone does not count.
    let local = parse(&text("socket = \"/tmp/x.sock\"\nshards = 1", "")).unwrap();
    assert_eq!(local.shared(), shared);

    let renamed = parse(&text("", "").replace("harbour", "haven")).unwrap();
    assert_eq!(shared.differing(renamed.shared()), ["[cluster]"]);
    let moved = parse(&text("", "").replace("0.0.12", "0.0.13")).unwrap();
    assert_eq!(shared.differing(moved.shared()), ["[[member]]"]);
    let more = parse(&text("", "[[space]]\nname = \"x\"\n")).unwrap();
    assert_eq!(shared.differing(more.shared()), ["[[space]]"]);

    // Each property of a lockspace counts, also that of `default`.
    let changes = [
        "order = \"strict\"",
        "retain = false",
        "resources_max = 7",
        "owner = \"root\"",
        "group = \"root\"",
        "mode = \"0600\"",
        "nodes = [\"a\"]",
    ];
    for change in changes {
        let other = parse(&text("", &format!("[[space]]\nname = \"default\"\n{change}\n"))).unwrap();
        assert_eq!(shared.differing(other.shared()), ["[[space]]"], "{change}");
    }

    // Order is identity: members and lockspaces are numbered by their place.
    let mut swapped = base.clone();
    swapped.members.swap(0, 1);
    assert_eq!(shared.differing(swapped.shared()), ["[[member]]"]);
    // What has no part of its own still shows in the last.
    assert_eq!(shared.differing(Shared(shared.0 ^ 1)), ["[fencing] order"]);
}

#[test]
fn fences_are_tried_in_order_and_every_one_is_described_and_used() {
    assert_eq!(parse(&text("", "")).unwrap().fencing, []);
    let both = "[fencing]\norder = [\"power\", \"cut\"]\n[fencing.cut]\ncommand = \"bin/cut\"\n\
                [fencing.power]\ncommand = \"/sbin/power\"\ntimeout = \"1min 2s\"\n";
    let config = parse(&text("", both)).unwrap();
    let told: Vec<_> = (config.fencing.iter())
        .map(|it| (it.name.as_str(), it.command.to_str().unwrap(), it.timeout.as_secs()))
        .collect();
    assert_eq!(told, [("power", "/sbin/power", 62), ("cut", "/etc/oarlock/bin/cut", 10)]);
    let without = parse(&text("", "")).unwrap().shared();
    assert_eq!(without.differing(config.shared()), ["[fencing] order"], "every verdict asks for the same");
    let elsewhere = parse(&text("", &both.replace("bin/cut", "sbin/cut"))).unwrap();
    assert_eq!(config.shared(), elsewhere.shared(), "how it is brought about is each member's affair");

    let bad = |section: &str, code, words: &[&str]| refused(&text("", section), code, words);
    let one = "[fencing.power]\ncommand = \"/sbin/power\"\n";
    let with = |order: &str| format!("[fencing]\norder = {order}\n{one}");
    bad(&with("[\"powr\"]"), Code::BadConfig, &["no section [fencing.powr]", "`power`?"]);
    bad(&with("[\"power\", \"power\"]"), Code::BadConfig, &["twice"]);
    bad(&with("[\"a b\"]"), Code::BadConfig, &["`a b`"]);
    bad(one, Code::BadConfig, &["`power` does not stand in the order", "order = [\"power\"]"]);
    bad("[fencing]\nordre = [\"power\"]\n", Code::UnknownKey, &["`ordre`", "`order`?"]);
    let misspelt = with("[\"power\"]").replace("command", "comand");
    bad(&misspelt, Code::UnknownKey, &["`comand`", "`command`?"]);
    bad(&format!("{}timeout = \"soon\"\n", with("[\"power\"]")), Code::BadConfig, &["`soon`", "10s"]);
    bad(&format!("{}timeout = \"1h\"\n", with("[\"power\"]")), Code::BadConfig, &["10min"]);
    bad("[fencing]\norder = [\"power\"]\n[fencing.power]\n", Code::BadConfig, &["`command` is missing"]);
}

#[test]
fn a_fence_that_cannot_be_run_is_found_before_it_is_needed() {
    let fence = |command: &str| {
        let section = format!("[fencing]\norder = [\"x\"]\n[fencing.x]\ncommand = \"{command}\"\n");
        fencing::check(&parse(&text("", &section)).unwrap().fencing)
    };
    fence("/bin/true").unwrap();
    for command in ["/etc/passwd", "/nowhere/to/be/found"] {
        let problem = fence(command).unwrap_err();
        assert!(problem.code == Code::BadConfig && problem.what.contains(command), "{problem}");
    }
}

#[test]
fn to_whom_a_lockspace_is_given_is_said_as_for_a_file() {
    let given = |lines: &str| {
        let c = parse(&text("", &format!("[[space]]\nname = \"x\"\n{lines}\n"))).unwrap();
        c.spaces[1].given.clone()
    };
    assert_eq!(given(""), Given::default());
    assert_eq!(given("mode = \"0660\""), Given::default(), "what is so already changes no shared number");
    let full = given("owner = \"app\"\ngroup = \"4711\"\nmode = \"640\"\nnodes = [\"b\", \"a\"]");
    let nodes = Some(vec!["a".to_owned(), "b".to_owned()]);
    assert_eq!(full, Given { owner: Some("app".into()), group: Some("4711".into()), mode: 0o640, nodes });
    let cases = [
        ("mode = \"0670\"", "0, 4 and 6"),
        ("mode = \"0620\"", "2 without 4"),
        ("mode = \"1660\"", "octal digits"),
        ("mode = \"66\"", "octal digits"),
        ("mode = \"rw-\"", "octal digits"),
        ("mode = \"0o660\"", "octal digits"),
        ("mode = 660", "another kind of value"),
        ("owner = \"\"", "owner cannot be"),
        ("group = \"a:b\"", "group cannot be"),
        ("nodes = [\"bb\"]", "did you mean `b`?"),
        ("onwer = \"a\"", "`owner`?"),
    ];
    for (lines, word) in cases {
        let text = text("", &format!("[[space]]\nname = \"x\"\n{lines}\n"));
        let code = if lines.starts_with("onwer") { Code::UnknownKey } else { Code::BadConfig };
        refused(&text, code, &["oarlock.toml:", word]);
    }
}

/// Whoever writes down what is the default, and whoever does not, are members of one cluster.
#[test]
fn the_shared_number_is_that_of_versions_without_rights_where_none_are_said() {
    let plain = parse(&text("", "[[space]]\nname = \"x\"\n")).unwrap().shared();
    let said = parse(&text("operators = \"wheel\"", "[[space]]\nname = \"x\"\nmode = \"0660\"\n")).unwrap();
    assert_eq!(plain, said.shared());
    assert_eq!(plain.0, PLAIN, "another number would keep nodes of the version before out");
}

const PLAIN: u64 = 1_378_855_701_426_933_956;

/// What a newcomer is told leads to a configuration that the others take for theirs, whichever member told it, also one that joined
/// itself; and addresses of the configuration come before those of the record.
#[test]
fn a_welcome_makes_a_member_of_the_same_cluster() {
    use super::membership::{FILE, Local, welcome};
    use crate::host::key::Secret;
    use oarlock_cluster::registry::{Command, Outcome, Registry};
    use oarlock_layout::id::Epoch;
    use oarlock_layout::seal::PublicKey;

    let founder =
        parse(&text("", "[[space]]\nname = \"x\"\norder = \"strict\"\nresources_max = 7\n")).unwrap();
    let mut registry = Registry::new();
    registry.apply(&founder.founding(Epoch(0)));
    let moved = parse(
        &text("", "[[space]]\nname = \"x\"\norder = \"strict\"\nresources_max = 7\n")
            .replace("0.0.12", "0.0.99"),
    );
    let moved = moved.unwrap();

    let secret = Secret::generate();
    let join = |registry: &mut Registry, name: &str, n: u8| {
        let (hash, name) = ([n; 32], name.to_owned());
        let serial = registry.next_token();
        registry.apply(&Command::CreateToken { serial, hash, name: name.clone(), wall: 1, expires: 9 });
        let address = SocketAddr::from(([10, 0, 0, n], 7401));
        let cluster = registry.cluster().unwrap();
        let key = PublicKey([n; 32]);
        let joined = registry.apply(&Command::Join { cluster, hash, name, address, key, wall: 1 });
        let Outcome::Joined { node, .. } = joined else { panic!("{joined:?}") };
        node
    };
    let settle = |told: &str, name: &str| {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("node.toml");
        let node = format!("[node]\nname = \"{name}\"\nlisten = \"10.0.0.1:1\"\ndata_dir = \".\"\n");
        std::fs::write(&file, &node).unwrap();
        let local = Local::load(&file).unwrap();
        let accepted = local.accept(told).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(accepted.secret.bytes(), secret.bytes());
        assert_eq!(accepted.restoration, None);
        let kept = accepted.membership;
        assert!(!kept.contains(&crate::host::key::print(&secret.bytes())), "the secret has its own file");
        std::fs::write(dir.path().join(FILE), kept).unwrap();
        assert_eq!(Local::load(&file).unwrap_err().code, Code::InCluster);
        let config = Config::load(&file).unwrap();
        std::fs::write(&file, node.replace(&format!("{name:?}"), "\"other\"")).unwrap();
        assert_eq!(Config::load(&file).unwrap_err().code, Code::BadConfig, "a member keeps its name");
        config
    };
    let c = join(&mut registry, "c", 3);
    let told = welcome(&moved, &registry, c, &secret);
    let addresses: Vec<_> = settle(&told, "c").known().into_values().map(|m| m.address.to_string()).collect();
    assert_eq!(addresses, ["10.0.0.11:7401", "10.0.0.99:7401", "10.0.0.3:7401"]);
    let config = settle(&welcome(&founder, &registry, c, &secret), "c");
    assert_eq!(config.shared(), founder.shared());
    assert_eq!((config.me, config.name(), config.node.address.to_string()), (c, "c", "10.0.0.3:7401".into()));
    let joined = config.joined.as_ref().unwrap();
    let revision = registry.member(c).unwrap().revision;
    assert_eq!((Some(joined.cluster), joined.revision), (registry.cluster(), revision));

    // The next one hears it from the one that joined.
    let d = join(&mut registry, "d", 4);
    let second = settle(&welcome(&config, &registry, d, &secret), "d");
    assert_eq!((second.shared(), second.spaces.len()), (config.shared(), 2));
    assert_eq!(second.known().len(), 4);

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("node.toml");
    std::fs::write(&file, "[node]\nname = \"d\"\n[[space]]\nname = \"y\"\n").unwrap();
    let local = Local::load(&file).unwrap();
    assert!(local.accept(&told).is_err(), "other lockspaces than the cluster has");
    let fenced =
        "[node]\nname = \"d\"\n[fencing]\norder = [\"power\"]\n[fencing.power]\ncommand = \"/off\"\n";
    std::fs::write(&file, fenced).unwrap();
    let why = Local::load(&file).unwrap().accept(&told).err().expect("verdicts would not ask for the same");
    assert!(why.contains("`order = []` in [fencing]") && why.contains("[\"power\"]"), "{why}");
    let same = told.replace("fencing = []", "fencing = [\"power\"]");
    assert!(Local::load(&file).unwrap().accept(&same).is_ok(), "{same}");
    assert!(local.accept("").is_err() && local.accept("secret = 1").is_err());
    let nobody = told.replace("node = 2", "node = 7");
    assert!(local.accept(&nobody).is_err(), "it is not among the peers");
}

/// A number that comes back does not bring back what was given to the one who had it before; a name does.
#[test]
fn what_is_given_to_a_node_is_given_to_its_name() {
    let config = parse(&text("", "[[space]]\nname = \"x\"\nnodes = [\"b\"]\n")).unwrap();
    let mut rights = Rights::of(&config, 0, 0).unwrap();
    let nodes = |rights: &Rights| rights.accesses()[1].nodes.clone();
    assert_eq!(nodes(&rights), Some(vec![NodeId(1)]));
    let mut know = |members: &[(NodeId, &str)]| {
        let changed = rights.know(members.iter().copied());
        (changed, nodes(&rights))
    };
    assert_eq!(know(&[(NodeId(0), "a"), (NodeId(1), "b")]), (false, Some(vec![NodeId(1)])));
    assert_eq!(know(&[(NodeId(0), "a"), (NodeId(1), "z")]), (true, Some(vec![])));
    assert_eq!(know(&[(NodeId(0), "a"), (NodeId(2), "b")]), (true, Some(vec![NodeId(2)])));
    assert_eq!(Rights::of(&config, 0, 0).unwrap().accesses()[0].nodes, None);
}
