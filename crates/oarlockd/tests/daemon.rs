//! Real daemons and bad company: wrong keys, old versions, addresses in use, descriptors that run out.

mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use oarlock_layout::code::Code;
use oarlock_layout::codec::Wire;
use oarlock_layout::message::frame;
use oarlock_layout::message::session::{LockRequest, Reply, Request, VERSION};
use oarlockd::host::door::{self, Received};
use support::solo::{Solo, free_port, serve};
use support::{Dev, lives, oarlock, run, until};

fn next(fd: &OwnedFd) -> Option<Reply> {
    let mut buffer = vec![0; 64 << 10];
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match door::receive(fd, &mut buffer).unwrap() {
            Received::Packet(n) => return Some(Reply::from_bytes(&buffer[..n]).unwrap()),
            Received::End => return None,
            Received::Nothing => assert!(Instant::now() < end, "no answer"),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// E2: keys are pinned. Whoever has another one is counted, and nobody else notices.
#[test]
fn a_peer_with_a_wrong_key_or_secret_is_refused_and_counted_and_disturbs_nobody() {
    let dev = Dev::start();
    let place = dev.cluster();
    let config = fs::read_to_string(place.join("node-c/node.toml")).unwrap();
    let own_key =
        |file: &Path| run(["key", "show", file.to_str().unwrap()]).expect(0, &[]).out.trim().to_owned();
    // The impostor has the secret and says it is node-c, but has another key.
    let dir = tempfile::Builder::new().prefix("oar").tempdir().unwrap();
    let key = dir.path().join("node.key");
    run(["key", "new", "--out", key.to_str().unwrap()]).expect(0, &[]);
    let port = free_port();
    let mut text = config.replace(&own_key(&place.join("node-c/node.key")), &own_key(&key));
    text = text.replace("../cluster.secret", place.join("cluster.secret").to_str().unwrap());
    text = text
        .replace("name = \"node-c\"\napi", &format!("name = \"node-c\"\nlisten = \"127.0.0.1:{port}\"\napi"));
    let text = text.lines().filter(|l| !l.starts_with("api")).collect::<Vec<_>>().join("\n");
    let file = dir.path().join("node.toml");
    fs::write(&file, &text).unwrap();
    let start = || {
        let log = fs::File::create(dir.path().join("log")).unwrap();
        oarlock().args(["serve", "--config"]).arg(&file).stderr(log).spawn().unwrap()
    };
    let mut impostor = start();
    until("node-a refuses it", || dev.counter('a', "refused_key") > 0 && dev.counter('b', "refused_key") > 0);
    for node in ['a', 'b', 'c'] {
        dev.run(node, &["ok"]).expect(0, &[]);
        dev.run(node, &["lock", "-w", "5s", "x", "--", "true"]).expect(0, &[]);
        assert_eq!((dev.counter(node, "silences"), dev.counter(node, "circuit_down")), (0, 0));
    }
    let log = fs::read_to_string(place.join("node-a/log")).unwrap();
    assert!(log.contains("OAR-5101"), "{log}");
    // It knows of no cluster, and there is one: it must not found another beside it.
    until("it ends by itself", || impostor.try_wait().unwrap().is_some());
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(log.contains("it must not be founded again"), "{log}");

    // And one with a right key, but another cluster secret.
    run(["key", "secret", "--out", dir.path().join("secret").to_str().unwrap()]).expect(0, &[]);
    let text = text.replace(place.join("cluster.secret").to_str().unwrap(), "secret");
    fs::write(&file, text).unwrap();
    let mut stranger = start();
    until("node-a refuses it", || dev.counter('a', "refused_secret") > 0);
    dev.run('a', &["ok"]).expect(0, &[]);
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn a_datagram_of_another_version_is_refused_and_counted() {
    let dev = Dev::start();
    let text = fs::read_to_string(dev.cluster().join("node-a/node.toml")).unwrap();
    let address: SocketAddr =
        text.split("address = \"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut hello = frame::start(frame::Kind::Hello).to_vec();
    hello[2] = frame::VERSION + 1;
    hello.resize(200, 7);
    socket.send_to(&hello, address).unwrap();
    until("it is counted", || dev.counter('a', "refused_version") > 0);
    // Garbage of every length, too.
    for n in 0..300 {
        socket.send_to(&vec![n as u8; n], address).unwrap();
    }
    until("it is counted", || dev.counter('a', "foreign") > 0);
    dev.run('a', &["ok"]).expect(0, &[]);
    assert_eq!(dev.counter('a', "silences"), 0);
}

/// T "Lockspaces": a difference in what all must agree on is refused, naming the key.
#[test]
fn a_member_with_another_shared_configuration_is_refused_and_the_key_is_named() {
    let dev = Dev::start_with(&["--keep"]);
    let file = dev.cluster().join("node-c/node.toml");
    support::signal(dev.pid('c'), "KILL");
    until("the others notice", || !dev.well('a'));
    // The others put it out, and go on: whoever asks whether this node serves hears that it does.
    let out = "node-c is not in the view; what it had is granted to others";
    until("it is out", || dev.run('a', &["status"]).out.contains(out));
    dev.run('a', &["lock", "-w", "5s", "x", "--", "true"]).expect(0, &[]);
    let said = dev.run('a', &["ok", "-o", "json"]).expect(0, &[]).json();
    assert_eq!(said["ok"], true, "{said}");
    let reasons = said["reasons"].as_array().unwrap();
    assert!(reasons.iter().any(|reason| reason["code"] == "OAR-3101"), "{said}");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}\n[[space]]\nname = \"more\"\n")).unwrap();
    let mut other = oarlock();
    let mut other = other.args(["serve", "--config"]).arg(&file).stderr(Stdio::null()).spawn().unwrap();
    until("node-a refuses it", || dev.counter('a', "refused_config") > 0);
    dev.run('c', &["ok"]).expect(69, &["no circuit to node-a", "it differs in [[space]]"]);
    dev.run('c', &["node", "show", "node-a"]).expect(0, &["refused", "[[space]]"]);
    let log = fs::read_to_string(dev.cluster().join("node-a/log")).unwrap();
    assert!(log.contains("OAR-5103") && log.contains("it differs in [[space]]"), "{log}");
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn a_program_of_another_version_is_told_both_versions() {
    let mut solo = Solo::new("");
    solo.start();
    let fd = door::connect(&solo.socket()).unwrap();
    let mut hello = Request::Hello { version: VERSION + 1, label: "later".into() }.to_bytes();
    // A later hello may go on in ways we cannot know.
    hello.extend([1, 2, 3]);
    door::send(&fd, &hello).unwrap();
    let Some(Reply::Refused { version, why }) = next(&fd) else { panic!("not refused") };
    assert_eq!((version, why.code), (VERSION, Code::SessionVersion));
    assert!(why.text.contains(&(VERSION + 1).to_string()), "{}", why.text);
    assert_eq!(next(&fd), None);
    assert_eq!(solo.run(&["ok"]).expect(0, &[]).out, "ok\n");
    let said = solo.run(&["ok", "-o", "json"]).expect(0, &[]).json();
    assert_eq!(
        (said["ok"].as_bool(), said["node"].as_str(), &said["v"]),
        (Some(true), Some("solo"), &1.into())
    );
    assert_eq!(solo.run(&["ok", "-o", "name"]).expect(0, &[]).out, "solo\n");
}

#[test]
fn a_program_that_talks_nonsense_loses_its_session_and_nobody_else_does() {
    let mut solo = Solo::new("");
    solo.start();
    let fd = door::connect(&solo.socket()).unwrap();
    door::send(&fd, &Request::Hello { version: VERSION, label: "x".into() }.to_bytes()).unwrap();
    assert!(matches!(next(&fd), Some(Reply::Welcome { .. })));
    door::send(&fd, &[0xff; 100]).unwrap();
    let Some(Reply::Lost { why }) = next(&fd) else { panic!("not ended") };
    assert_eq!(why.code, Code::SessionMalformed);
    assert_eq!(next(&fd), None);
    solo.run(&["lock", "-n", "x", "--", "true"]).expect(0, &[]);
    // A hello that is none: right kind and version, and a label that never ends.
    let fd = door::connect(&solo.socket()).unwrap();
    let [low, high] = VERSION.to_le_bytes();
    door::send(&fd, &[1, low, high, 200]).unwrap();
    let Some(Reply::Lost { why }) = next(&fd) else { panic!("welcome") };
    assert_eq!(why.code, Code::SessionMalformed);
    assert_eq!(next(&fd), None);
}

#[test]
fn sockets_addresses_and_directories_in_use_have_their_own_codes() {
    let mut first = Solo::new("");
    first.start();
    first.serve().expect(78, &["OAR-1206", "another node is using it"]);

    // Another data directory, the same socket.
    let text = first.read().replace("data_dir = \"data\"", "data_dir = \"data2\"");
    let second = first.path("second.toml");
    fs::write(&second, &text).unwrap();
    serve(&second).expect(69, &["OAR-1105", "oarlock.sock"]);

    // Another socket, the same port.
    let text = text.replace("run/", "run2/");
    fs::write(&second, &text).unwrap();
    serve(&second).expect(69, &["OAR-1106", &first.port.to_string(), "ss -lunp"]);

    // An address of somebody else.
    fs::write(&second, text.replace("socket =", "listen = \"192.0.2.1:7401\"\nsocket =")).unwrap();
    serve(&second).expect(78, &["OAR-1107", "192.0.2.1"]);

    let deep = format!("{}/oarlock.sock", "x".repeat(120));
    fs::write(&second, text.replace("run2/oarlock.sock", &deep)).unwrap();
    serve(&second).expect(78, &["OAR-1104"]);
    first.run(&["ok"]).expect(0, &[]);

    // Who asks about a configuration hears of its node, wherever that listens.
    let said = run(["doctor", "-c", first.config().to_str().unwrap()]);
    assert!(said.out.contains("solo serves (its configuration)"), "{}", said.out);
}

/// The check, its verdict and what it found, as `doctor` says of a configuration.
fn doctor(config: &Path, check: &str) -> (String, String) {
    let said = run(["doctor", "-o", "json", "-c", config.to_str().unwrap()]);
    let report = said.json();
    let check = report["checks"].as_array().unwrap().iter().find(|c| c["check"] == check);
    let text = |key: &str| check.map_or("", |c| c[key].as_str().unwrap()).to_owned();
    (text("verdict"), text("found"))
}

#[test]
fn doctor_tries_the_addresses_of_a_configuration() {
    let mut solo = Solo::new("");
    let api = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = api.local_addr().unwrap();
    solo.write(&solo.read().replace("[cluster]", &format!("api = \"{address}\"\n[cluster]")));
    let config = solo.config();
    let fine = |check: &str, found: &str| {
        let (verdict, text) = doctor(&config, check);
        assert!(verdict == "ok" && text.contains(found), "{check}: {verdict}: {text}");
    };
    let bad = |config: &Path, check: &str, code: &str| {
        let (verdict, text) = doctor(config, check);
        assert!(verdict == "bad" && text.contains(code), "{check}: {verdict}: {text}");
    };

    // Somebody else is there.
    fine("udp address", "is free");
    bad(&config, "api address", "OAR-1106");
    let other = UdpSocket::bind(("127.0.0.1", solo.port)).unwrap();
    bad(&config, "udp address", "OAR-1106");
    // Or it is the node itself, which does not answer.
    let door = door::Door::open(&solo.socket()).unwrap();
    let ended = Arc::new(AtomicBool::new(false));
    let sulk = std::thread::spawn({
        let ended = ended.clone();
        move || {
            while !ended.load(Relaxed) {
                drop(door.accept().unwrap());
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    let (verdict, found) = doctor(&config, "udp address");
    assert!(verdict == "warn" && found.contains("perhaps by the node itself"), "{verdict}: {found}");
    ended.store(true, Relaxed);
    sulk.join().unwrap();
    drop((api, other));
    fine("api address", "is free");

    // The node itself is there.
    solo.start();
    fine("udp address", "is where solo listens");
    fine("api address", "is where solo listens");
    let status = solo.run(&["status", "-o", "json"]).expect(0, &[]).json();
    assert_eq!(status["socket"], solo.socket().to_str().unwrap());
    assert_eq!(status["listen"], format!("127.0.0.1:{}", solo.port));
    assert_eq!(status["api"], address.to_string());

    // Another node of the same configuration, as far as addresses go.
    let second = solo.path("second.toml");
    fs::write(&second, solo.read().replace("run/", "run2/")).unwrap();
    bad(&second, "udp address", "OAR-1106");
    bad(&second, "api address", "OAR-1106");
    fs::write(&second, solo.read().replace("socket =", "listen = \"192.0.2.1:7401\"\nsocket =")).unwrap();
    bad(&second, "udp address", "OAR-1107");
}

#[test]
fn bad_configuration_and_keys_are_named() {
    let solo = Solo::new("");
    let good = solo.read();
    run(["config", "check", solo.config().to_str().unwrap()]).expect(0, &["makes sense", "[[member]]"]);
    let shown = run(["config", "show", solo.config().to_str().unwrap()]).expect(0, &["resources_max"]);
    // What is shown is itself a configuration, with the same meaning.
    fs::write(solo.path("shown.toml"), &shown.out).unwrap();
    let again = run(["config", "show", solo.path("shown.toml").to_str().unwrap()]).expect(0, &[]);
    assert_eq!(again.out, shown.out);

    solo.write(&good.replace("data_dir", "datadir"));
    solo.serve().expect(78, &["OAR-1202", "`datadir`", "did you mean `data_dir`?", "node.toml:4:1"]);
    solo.write(&good.replace("[[member]]", "[[membre]]"));
    solo.serve().expect(78, &["OAR-1202", "`member`?"]);
    solo.write(&good);

    fs::set_permissions(solo.path("node.key"), fs::Permissions::from_mode(0o644)).unwrap();
    solo.serve().expect(78, &["OAR-1203", "chmod 600"]);
    fs::set_permissions(solo.path("node.key"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(solo.path("secret"), fs::Permissions::from_mode(0o660)).unwrap();
    solo.serve().expect(78, &["OAR-1203", "chmod 600", "secret"]);
    fs::set_permissions(solo.path("secret"), fs::Permissions::from_mode(0o600)).unwrap();

    fs::rename(solo.path("node.key"), solo.path("right.key")).unwrap();
    run(["key", "new", "--out", solo.path("node.key").to_str().unwrap()]).expect(0, &[]);
    solo.serve().expect(78, &["OAR-1205", "its public half is"]);
    run(["key", "new", "--out", solo.path("node.key").to_str().unwrap()])
        .expect(1, &["exists", "lost for good"]);
    fs::write(solo.path("node.key"), "hello").unwrap();
    solo.serve().expect(78, &["OAR-1204"]);
    fs::rename(solo.path("right.key"), solo.path("node.key")).unwrap();

    fs::create_dir(solo.path("data")).unwrap();
    fs::write(solo.path("data/state"), "oarlock-state 1\nincarnation 7\n").unwrap();
    solo.serve().expect(78, &["OAR-1206", "damaged"]);
}

#[test]
fn a_full_lockspace_refuses_and_recovers() {
    let mut solo = Solo::new("[[space]]\nname = \"small\"\nresources_max = 2\nretain = false\n");
    solo.start();
    let inner = |name: &str, then: &str| {
        format!("'{}' lock --space small {name} -c \"{then}\"", env!("CARGO_BIN_EXE_oarlock"))
    };
    let script = inner("two", &inner("three", "true").replace('"', "\\\""));
    let said = solo.run(&["lock", "--space", "small", "one", "-c", &script]);
    said.expect(1, &["OAR-2201", "three"]);
    until("there is room again", || {
        solo.run(&["lock", "--space", "small", "four", "--", "true"]).status == Some(0)
    });
}

#[test]
fn running_out_of_descriptors_refuses_with_its_code_and_does_not_spin() {
    let mut solo = Solo::new("");
    let mut command = Command::new("sh");
    let script = format!(
        "ulimit -n 32; exec '{}' serve --config '{}'",
        env!("CARGO_BIN_EXE_oarlock"),
        solo.config().display()
    );
    command.args(["-c", &script]);
    solo.start_as(command);
    let crowd: Vec<OwnedFd> = (0..60).map(|_| door::connect(&solo.socket()).unwrap()).collect();
    until("somebody is refused", || {
        crowd.iter().any(|fd| {
            let mut buffer = vec![0; 4096];
            match door::receive(fd, &mut buffer) {
                Ok(Received::Packet(n)) => {
                    let Ok(Reply::Refused { why, .. }) = Reply::from_bytes(&buffer[..n]) else {
                        return false;
                    };
                    why.code == Code::OutOfDescriptors
                }
                _ => false,
            }
        })
    });
    solo.run(&["status"]).expect(69, &["OAR-1301", "descriptor"]);
    // Full, and quiet: less than half of the time is used, where a spin would use all.
    let used = || -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", solo.engine())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = used();
    std::thread::sleep(Duration::from_secs(1));
    assert!(used() - before < 50, "{} of 100 ticks", used() - before);
    drop(crowd);
    until("there is room again", || solo.run(&["ok"]).status == Some(0));
    assert!(solo.run(&["metrics"]).out.contains("sessions_without_descriptor"));
}

/// HTTP is open to every user of the machine.
#[test]
fn silent_connections_over_http_do_not_take_the_programs_descriptors() {
    let mut solo = Solo::new("");
    let api = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    solo.write(&solo.read().replace("[cluster]", &format!("api = \"{api}\"\n[cluster]")));
    let mut command = Command::new("sh");
    let script = format!(
        "ulimit -n 64; exec '{}' serve --config '{}'",
        env!("CARGO_BIN_EXE_oarlock"),
        solo.config().display()
    );
    command.args(["-c", &script]);
    solo.start_as(command);
    let crowd: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(api).unwrap()).collect();
    std::thread::sleep(Duration::from_millis(500));
    for _ in 0..5 {
        solo.run(&["lock", "x", "--", "true"]).expect(0, &[]);
    }
    drop(crowd);
    until("there is room again", || http(&api.to_string(), "/livez").starts_with("HTTP/1.1 200"));
}

/// Programs may attach while a node still waits for the others; the epoch must reach its disk all the same.
#[test]
fn a_node_whose_descriptors_are_taken_before_it_serves_still_forms_a_view() {
    let (first, mut second) = (Solo::new(""), Solo::new(""));
    let public = |solo: &Solo| {
        let file = solo.path("node.key");
        run(["key", "show", file.to_str().unwrap()]).expect(0, &[]).out.trim().to_owned()
    };
    let member = |name: &str, solo: &Solo| {
        let key = public(solo);
        format!(
            "[[member]]\nname = \"{name}\"\naddress = \"127.0.0.1:{}\"\npublic_key = \"{key}\"\n",
            solo.port
        )
    };
    let members = member("solo", &first) + &member("other", &second);
    let head = |solo: &Solo| solo.read().split("[[member]]").next().unwrap().to_owned();
    first.write(&(head(&first) + &members));
    second.write(&(head(&second).replace("\"solo\"", "\"other\"") + &members));
    fs::copy(first.path("secret"), second.path("secret")).unwrap();

    let script = format!(
        "ulimit -n 32; exec '{}' serve --config '{}'",
        env!("CARGO_BIN_EXE_oarlock"),
        first.config().display()
    );
    let mut node = Command::new("sh");
    let log = fs::File::create(first.path("log")).unwrap();
    let mut node = node.args(["-c", &script]).stdin(Stdio::null()).stderr(log).spawn().unwrap();
    until("its door is open", || door::connect(&first.socket()).is_ok());
    // Again and again, until really all are taken, the one kept for refusals too.
    let mut crowd: Vec<OwnedFd> = Vec::new();
    for _ in 0..3 {
        crowd.extend((0..60).map(|_| door::connect(&first.socket()).unwrap()));
        std::thread::sleep(Duration::from_millis(200));
    }
    second.start();
    assert!(node.try_wait().unwrap().is_none(), "{}", first.log());
    drop(crowd);
    until("it serves", || first.run(&["ok"]).status == Some(0));
    node.kill().unwrap();
    node.wait().unwrap();
}

#[test]
#[ignore = "not a test but a program: the next test starts it"]
fn program_that_lends_its_socket() {
    let fd = door::connect(Path::new(&std::env::var_os("OARLOCK_SOCKET").unwrap())).unwrap();
    door::send(&fd, &Request::Hello { version: VERSION, label: "lender".into() }.to_bytes()).unwrap();
    door::send(&fd, &Request::Lock(exclusive("lent")).to_bytes()).unwrap();
    assert!(matches!(next(&fd), Some(Reply::Welcome { .. })));
    assert!(matches!(next(&fd), Some(Reply::Granted(_))));
    oarlockd::host::child::inherit(&fd).unwrap();
    // A shell starts it and ends: the helper is nobody's child, as after a fork of a program that ends.
    let script = "sleep 60 >&2 & echo \"helper <$!>\"";
    assert!(Command::new("sh").args(["-c", script]).stderr(Stdio::null()).status().unwrap().success());
}

/// M12: a session ends with the process that opened it, also if a helper of that process has the socket still.
#[test]
fn a_session_ends_with_its_opener_though_a_helper_keeps_the_socket() {
    let mut solo = Solo::new("");
    solo.start();
    let mut program = Command::new(std::env::current_exe().unwrap());
    program.args(["program_that_lends_its_socket", "--exact", "--ignored", "--nocapture"]);
    let said = program.env("OARLOCK_SOCKET", solo.socket()).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let helper: i32 = said.split(['<', '>']).nth(1).expect(&said).parse().unwrap();
    assert!(lives(helper), "the helper has the socket");
    solo.run(&["lock", "-w", "5s", "lent", "--", "true"]).expect(0, &[]);
    assert!(lives(helper));
    support::signal(helper, "KILL");
}

/// L3, L5: a run that was stopped in order has given itself up, and the next one begins at once; one that was killed is waited
/// for until its lease is over.
#[test]
fn only_an_unclean_stop_makes_the_next_run_wait() {
    let mut solo = Solo::new("");
    solo.start();
    let state = |solo: &Solo| fs::read_to_string(solo.path("data/state")).unwrap();
    assert!(state(&solo).contains("incarnation 1\nepoch 1\n"), "{}", state(&solo));
    assert_eq!(solo.end("TERM"), Some(0));
    assert!(solo.log().contains("nobody can still hold a lock of this run"));
    assert!(!solo.socket().exists());

    let began = Instant::now();
    solo.start();
    println!("stopped in order, then started to serving: {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    solo.run(&["lock", "x", "--", "true"]).expect(0, &[]);
    solo.end("KILL");

    let began = Instant::now();
    solo.start();
    println!("killed, then started to serving: {:?}", began.elapsed());
    assert!(began.elapsed() > Duration::from_secs(2), "its lease went on: {:?}", began.elapsed());
    assert!(state(&solo).contains("incarnation 3\n"), "{}", state(&solo));
}

/// L2: somebody may still act under a lock of the run that was killed, however orderly the short one after it ended.
#[test]
fn a_killed_run_is_waited_for_though_the_one_after_it_stopped_in_order() {
    let mut solo = Solo::new("");
    solo.start();
    let killed = Instant::now();
    solo.end("KILL");
    let mut short = oarlock();
    let mut short =
        short.args(["serve", "--config"]).arg(solo.config()).stderr(Stdio::null()).spawn().unwrap();
    until("its door is open", || solo.run(&["status"]).status == Some(0));
    support::signal(short.id() as i32, "TERM");
    assert!(short.wait().unwrap().success());
    solo.start();
    assert!(killed.elapsed() > Duration::from_secs(2), "{:?}", killed.elapsed());
}

/// A program that does not hang up may still act: the run is not given up then.
#[test]
fn a_run_whose_holder_stays_is_not_given_up() {
    let mut solo = Solo::new("");
    solo.start();
    let stubborn = door::connect(&solo.socket()).unwrap();
    door::send(&stubborn, &Request::Hello { version: VERSION, label: "stubborn".into() }.to_bytes()).unwrap();
    door::send(&stubborn, &Request::Lock(exclusive("mine")).to_bytes()).unwrap();
    assert!(matches!(next(&stubborn), Some(Reply::Welcome { .. })));
    assert!(matches!(next(&stubborn), Some(Reply::Granted(_))));
    assert_eq!(solo.end("TERM"), Some(0));
    let Some(Reply::Lost { why }) = next(&stubborn) else { panic!("not told") };
    assert_eq!(why.code, Code::Lost);
    let log = solo.log();
    assert!(log.contains("did not hang up") && !log.contains("nobody can still hold a lock"), "{log}");
}

fn exclusive(name: &str) -> LockRequest {
    LockRequest {
        handle: 1,
        space: oarlock_layout::id::SpaceId(0),
        name: oarlock_layout::name::Name::new(name.as_bytes()).unwrap(),
        mode: oarlock_layout::mode::Mode::EX,
        flags: Default::default(),
        timeout_ms: 0,
        owner: Default::default(),
        transaction: Default::default(),
    }
}

fn http(address: &str, path: &str) -> String {
    http_accepting(address, path, "*/*")
}

fn http_accepting(address: &str, path: &str, accept: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn metrics_and_readiness_are_served_on_loopback() {
    let dev = Dev::start_with(&["--keep"]);
    let text = fs::read_to_string(dev.cluster().join("node-a/node.toml")).unwrap();
    let api = text.split("api = \"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    dev.run('a', &["lock", "harbour/crane", "--", "true"]).expect(0, &[]);
    assert!(http(&api, "/livez").starts_with("HTTP/1.1 200"));
    assert!(http(&api, "/readyz").starts_with("HTTP/1.1 200"));
    let metrics = http(&api, "/metrics");
    for line in [
        "oarlock_local_grants_total 1",
        "oarlock_serving 1",
        "oarlock_member_heard{node=\"node-b\"} 1",
        "\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n",
        "# HELP oarlock_resent_total Segments sent again\n# TYPE oarlock_resent_total counter\noarlock_resent_total ",
        "# HELP oarlock_silences_total Times the peer became silent\n",
    ] {
        assert!(metrics.contains(line), "`{line}` is not in\n{metrics}");
    }
    for line in [
        "# TYPE oarlock_lock_grants_total counter\n",
        "\noarlock_lock_grants_total{space=\"default\",how=\"master\"} 1\n",
        "\noarlock_lock_grants_total{space=\"default\",how=\"retained\"} 0\n",
        "\noarlock_lock_messages_total{space=\"default\",type=\"deny\"} 0\n",
        "# TYPE oarlock_lock_wait_seconds histogram\n",
        "\noarlock_lock_wait_seconds_count{space=\"default\"} 1\n",
        "\noarlock_lock_wait_seconds_bucket{le=\"0.0001\",space=\"default\"} ",
        "\noarlock_lock_wait_seconds_bucket{le=\"60.0\",space=\"default\"} 1\n",
        "\noarlock_lock_wait_seconds_bucket{le=\"+Inf\",space=\"default\"} 1\n",
        "# TYPE oarlock_circuit_resent_total counter\n",
        "\noarlock_circuit_resent_total{node=\"node-b\"} ",
        "\noarlock_circuit_datagrams_sent_total{node=\"node-c\"} ",
        "\noarlock_circuit_rtt_seconds{node=\"node-b\"} ",
    ] {
        assert!(metrics.contains(line), "`{line}` is not in\n{metrics}");
    }
    assert!(!metrics.contains("crane"), "no label names a resource:\n{metrics}");
    assert!(!metrics.contains("# EOF"), "{metrics}");
    let open =
        http_accepting(&api, "/metrics", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5");
    assert!(
        open.contains("\r\ncontent-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n")
    );
    assert!(open.contains("# TYPE oarlock_resent counter\n") && open.contains("# EOF\n"), "{open}");
    let victim = dev.pid('b');
    dev.order(&["break", "node-b"]).expect(0, &[]);
    until("node-b is out", || dev.run('a', &["status"]).out.contains("node-b is not in the view"));
    until("it is ready without it", || http(&api, "/readyz").starts_with("HTTP/1.1 200"));
    dev.order(&["break", "node-c"]).expect(0, &[]);
    until("it is not ready", || http(&api, "/readyz").starts_with("HTTP/1.1 503"));
    until("it says why", || http(&api, "/readyz").contains("OAR-2402"));
    assert!(http(&api, "/livez").starts_with("HTTP/1.1 200"), "it lives");
    assert!(!lives(victim));
}

#[test]
fn help_texts_manuals_and_completions_exist_for_every_command() {
    let dir = tempfile::tempdir().unwrap();
    run(["man", dir.path().to_str().unwrap()]).expect(0, &[]);
    for page in ["oarlock.1", "oarlock-lock.1", "oarlock-locks-why.1", "oarlock-dev.1"] {
        assert!(dir.path().join(page).exists(), "{page}");
    }
    run(["man"]).expect(0, &[".TH oarlock"]);
    for shell in ["bash", "zsh", "fish"] {
        run(["completions", shell]).expect(0, &["oarlock"]);
        run(["completions", shell, "--fixed"]).expect(0, &["locks"]);
    }
    run(["explain", "OAR-2101"]).expect(0, &["somebody holds it", "exit: 75"]);
    run(["explain", "OAR-9"]).expect(2, &["not a code"]);
    assert!(run(["explain", "-o", "json"]).expect(0, &[]).json()["codes"].as_array().unwrap().len() > 30);
    run(["version"]).expect(0, &["session protocol"]);
    run(["lock", "--help"]).expect(0, &["OARLOCK_TOKEN", "75 not granted"]);
    let said = oarlock().args(["doctor", "-o", "json"]).stdin(Stdio::null()).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    assert!(
        report["checks"].as_array().unwrap().iter().any(|c| c["check"] == "pidfd" && c["verdict"] == "ok")
    );
}
