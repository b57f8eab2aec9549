//! Options of lists on a real cluster, and what a shell gets when somebody presses Tab.

mod support;

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use support::{Dev, Said, ask, run, until};

fn out(dev: &Dev, node: char, args: &[&str]) -> String {
    dev.run(node, args).expect(0, &[]).out
}

#[test]
fn lists_take_columns_conditions_an_order_and_forms() {
    let dev = Dev::start();
    let _writer = ask(&dev, 'a', "writer", &["orders/1"]);
    let _reader = ask(&dev, 'b', "reader", &["-s", "orders/2"]);
    until("both are held", || out(&dev, 'c', &["locks", "ls"]).matches("in use").count() == 2);
    let _second = ask(&dev, 'c', "second", &["orders/1"]);
    until("one waits", || out(&dev, 'b', &["locks", "why", "orders/1"]).contains("1 waits for"));

    let ls = |options: &[&str]| out(&dev, 'b', &[&["locks", "ls"], options].concat());
    assert_eq!(ls(&["-o", "name"]), "orders/1\norders/2\n");
    assert_eq!(ls(&["-o", "name", "--sort", "-resource"]), "orders/2\norders/1\n");
    assert_eq!(ls(&["-o", "name", "--where", "waiting>0"]), "orders/1\n");
    assert_eq!(ls(&["-o", "name", "--where", "mode=pr"]), "orders/2\n");
    assert_eq!(ls(&["-o", "name", "--where", "who~writer", "--where", "waiting>0"]), "orders/1\n");
    assert_eq!(ls(&["-o", "name", "--where", "who~writer and waiting<1"]), "");
    assert_eq!(ls(&["-o", "name", "--where", "for>1h"]), "");
    let table = ls(&["--columns", "resource,waiting,mode", "--sort", "waiting"]);
    assert_eq!(table, "RESOURCE  WAITING  MODE\norders/2  0        PR\norders/1  1        EX\n");
    assert_eq!(ls(&["--columns", "mode", "--no-headers", "--where", "resource=orders/1"]), "EX\n");
    let head = |options: &[&str]| ls(options).lines().next().unwrap_or_default().to_owned();
    assert!(head(&["-o", "wide"]).ends_with("TOKEN") && head(&[]).ends_with("MASTER"));

    // A document has the same keys as ever, and the rows that were asked for.
    let whole = dev.run('b', &["locks", "ls", "-o", "json"]).json();
    let options = ["--sort", "-waiting", "--where", "state=in use", "--columns", "mode"];
    let some = dev.run('b', &[&["locks", "ls", "-o", "json"], &options[..]].concat()).json();
    let named = |i: usize| some["resources"][i]["name"].as_str().map(str::to_owned);
    assert_eq!([named(0), named(1), named(2)], [Some("orders/1".into()), Some("orders/2".into()), None]);
    let keys =
        |d: &serde_json::Value| d["resources"][0].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!((&some["v"], keys(&some)), (&whole["v"], keys(&whole)));
    let yaml = ls(&["-o", "yaml", "--where", "resource=orders/1"]);
    let fence = whole["resources"][0]["holders"][0]["fence"].as_str().unwrap();
    for line in ["v: 1", "space: default", "- name: orders/1", &format!("fence: \"{fence}\"")] {
        assert!(yaml.lines().any(|l| l.trim() == line), "`{line}` is not in\n{yaml}");
    }
    assert!(!yaml.contains("orders/2"), "{yaml}");

    let nodes = |options: &[&str]| out(&dev, 'b', &[&["node", "ls", "-o", "name"], options].concat());
    assert_eq!(nodes(&["--where", "circuit=this node"]), "node-b\n");
    assert_eq!(
        nodes(&["--where", "circuit=up", "--where", "rtt<10s", "--sort", "-node"]),
        "node-c\nnode-a\n"
    );
    let listed = dev.run('b', &["node", "ls", "-o", "json", "--where", "node~-c"]).expect(0, &[]).json();
    assert_eq!((listed["members"].as_array().unwrap().len(), &listed["members"][0]["id"]), (1, &2.into()));
    let counters = out(&dev, 'a', &["metrics", "-o", "name", "--where", "counter=local_grants"]);
    assert_eq!(counters, "local_grants\n");
    let doctor = dev.run('a', &["doctor", "-o", "name", "--where", "verdict=OK"]).out;
    assert!(doctor.lines().any(|l| l == "daemon"), "{doctor}");
}

/// What was asked for is cut at `-n`, not what would have been shown without.
#[test]
fn hot_lists_are_lists_too() {
    let dev = Dev::start();
    let hot = |options: &[&str]| {
        let mut command = dev.at('a');
        command.args(["locks", "hot", "--for", "3s"]).args(options);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let some = hot(&["-o", "name", "--where", "resource~cool", "-n", "1"]);
    let table = hot(&["--columns", "resource,messages", "--sort", "messages", "--where", "messages>0"]);
    thread::sleep(Duration::from_millis(300));
    for node in ['a', 'b', 'c', 'a', 'b', 'c'] {
        dev.run(node, &["lock", "busy", "--", "true"]).expect(0, &[]);
        dev.run(node, &["lock", "busy", "--", "true"]).expect(0, &[]);
    }
    for node in ['a', 'b', 'c'] {
        dev.run(node, &["lock", "cool", "--", "true"]).expect(0, &[]);
    }
    let table = Said::of(table.wait_with_output().unwrap()).expect(0, &[]).out;
    let some = Said::of(some.wait_with_output().unwrap()).expect(0, &[]).out;
    let lines: Vec<_> = table.lines().map(|l| l.split_whitespace().next().unwrap_or_default()).collect();
    assert_eq!(lines, ["RESOURCE", "cool", "busy"], "{table}");
    assert_eq!(some, "cool\n");
}

#[test]
fn a_column_that_is_not_there_is_a_usage_error_with_or_without_a_daemon() {
    let nobody = ["--socket", "/nonexistent/oarlock.sock"];
    let columns =
        "the columns are resource, mode, state, who, for, waiting, master, owned, openers, value, token";
    for option in [["--columns", "resource,mod"], ["--sort", "-mod"], ["--where", "mod=EX"]] {
        run([&["locks", "ls"], &nobody[..], &option[..]].concat())
            .expect(2, &["OAR-1001", "there is no column `mod`", columns, "did you mean mode?"]);
    }
    let lists: [&[&str]; 5] = [&["locks", "hot"], &["node", "ls"], &["metrics"], &["doctor"], &["explain"]];
    for list in lists {
        run([list, &["--sort", "zzz"]].concat()).expect(2, &["there is no column `zzz`", "the columns are "]);
    }
    run([&["locks", "ls"], &nobody[..], &["--where", "waiting>few"]].concat())
        .expect(2, &["`few` is not a number"]);
    run([&["locks", "ls"], &nobody[..], &["--where", "waiting"]].concat()).expect(2, &["is not a condition"]);
    run(["explain", "OAR-2101", "--sort", "exit"]).expect(2, &["is one code"]);
    let said = run(["explain", "--columns", "nonsense", "-o", "json"]).expect(2, &[]);
    let problem: serde_json::Value = serde_json::from_str(&said.err).unwrap();
    assert_eq!((&problem["error"]["exit"], &problem["error"]["code"]), (&2.into(), &"OAR-1001".into()));
    run(["explain", "--columns", "nonsense", "-o", "yaml"]).expect(2, &["code: OAR-1001", "exit: 2"]);
    // Those that need no daemon answer without one.
    let codes = run(["explain", "--where", "exit=75", "--sort", "-code", "-o", "name"]).expect(0, &[]).out;
    assert_eq!(codes, "OAR-2113\nOAR-2104\nOAR-2102\nOAR-2101\n");
    run(["locks", "ls", "--help"]).expect(0, &["Columns: resource, mode", "--where 'for>10s'", "yaml"]);
}

/// What a shell would offer for the last word of a line.
fn offered(command: &mut Command, line: &[&str]) -> Vec<String> {
    command.env("OARLOCK_COMPLETE", "bash").env("_CLAP_IFS", "\n");
    command.env("_CLAP_COMPLETE_INDEX", (line.len() - 1).to_string());
    let said = Said::of(command.arg("--").args(line).output().unwrap()).expect(0, &[]);
    assert_eq!(said.err, "", "Tab is silent");
    said.out.lines().map(str::to_owned).collect()
}

#[test]
fn names_complete_by_tab() {
    let mut dev = Dev::start_with(&["--space", "stock"]);
    let _writer = ask(&dev, 'a', "writer", &["orders/1"]);
    let _second = ask(&dev, 'b', "second", &["orders/22"]);
    let _other = ask(&dev, 'c', "other", &["--space", "stock", "item/1"]);
    let _strange = ask(&dev, 'c', "strange", &["orders/$(id)"]);
    until("all are held", || {
        let held = |space| out(&dev, 'c', &["locks", "ls", "--space", space]).matches("in use").count();
        held("default") == 3 && held("stock") == 1
    });
    let tab = |line: &[&str]| offered(&mut dev.at('b'), line);
    for command in ["show", "why", "ls", "watch"] {
        assert_eq!(tab(&["oarlock", "locks", command, "ord"]), ["orders/1", "orders/22"], "{command}");
    }
    assert_eq!(tab(&["oarlock", "lock", "-w", "5s", "orders/2"]), ["orders/22"]);
    assert_eq!(tab(&["oarlock", "locks", "show", "--space", "stock", "i"]), ["item/1"]);
    assert_eq!(tab(&["oarlock", "locks", "show", "--space", "s"]), ["stock"]);
    assert_eq!(tab(&["oarlock", "node", "show", "node-"]), ["node-a", "node-b", "node-c"]);
    assert_eq!(tab(&["oarlock", "lock", "x", "--", "oarlock-no-such-prog"]), [""; 0]);
    assert!(tab(&["oarlock", "lock", "x", "--", "slee"]).contains(&"sleep".to_owned()));
    assert_eq!(tab(&["oarlock", "lock", "x", "--", "cat", "/proc/self/statu"]), ["/proc/self/status"]);
    let elsewhere = dev.socket('b').display().to_string();
    let line = ["oarlock", "node", "show", "--socket", &elsewhere, "node-a"];
    assert_eq!(offered(&mut support::oarlock(), &line), ["node-a"]);

    // The script itself, in the shell it is for.
    let script = r#"
        source <("$OARLOCK" completions bash)
        COMP_WORDS=(oarlock locks show orders/2) COMP_CWORD=3 COMP_TYPE=9
        _clap_complete_oarlock oarlock orders/2 show
        printf '%s\n' "${COMPREPLY[@]}""#;
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", script]).env("OARLOCK", env!("CARGO_BIN_EXE_oarlock"));
    bash.env("OARLOCK_SOCKET", dev.socket('b')).stdin(Stdio::null());
    assert_eq!(Said::of(bash.output().unwrap()).expect(0, &[]).out, "orders/22\n");

    // A daemon that does not answer, and none at all: nothing is offered, nothing is said, nobody waits.
    let line = ["oarlock", "locks", "show", "ord"];
    let pid = dev.engine('b');
    support::signal(pid, "STOP");
    let began = Instant::now();
    assert_eq!(offered(&mut dev.at('b'), &line), [""; 0]);
    let took = began.elapsed();
    support::signal(pid, "CONT");
    // A tenth of a second, and what starting a process on a busy machine takes.
    assert!((Duration::from_millis(100)..Duration::from_secs(2)).contains(&took), "{took:?}");
    let alone = |line: &[&str]| offered(support::oarlock().env("OARLOCK_SOCKET", "/nonexistent"), line);
    assert_eq!(alone(&line), [""; 0]);
    assert_eq!(alone(&["oarlock", "locks", "sho"]), ["show"]);
    dev.stop();
}

#[test]
fn completion_never_comes_in_the_way() {
    // Another program's variable is none of ours, and ours may be switched off.
    let said = Said::of(support::oarlock().arg("version").env("COMPLETE", "bash").output().unwrap());
    said.expect(0, &["session protocol"]);
    let said = Said::of(support::oarlock().arg("version").env("OARLOCK_COMPLETE", "").output().unwrap());
    said.expect(0, &["session protocol"]);
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        run(["completions", shell]).expect(0, &["OARLOCK_COMPLETE"]);
        run(["completions", shell, "--fixed"]).expect(0, &["locks"]);
    }
}
