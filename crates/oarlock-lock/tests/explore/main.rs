//! Explores small clusters in full and prints how many states there were.

#[path = "mod.rs"]
mod explore;

use std::process::ExitCode;

use explore::menu::Menu;
use explore::{aside, search, sets};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |key: &str| args.iter().position(|a| a == key).and_then(|i| args.get(i + 1));
    let number = |key: &str| value(key).map(|v| v.parse::<usize>().expect("a number"));
    let has = |key: &str| args.iter().any(|a| a == key);
    let mut menus = if has("--full") { sets::full() } else { sets::quick() };
    if has("--views") {
        menus.retain(|m| m.plan.is_some());
    }
    if let Some(name) = value("--name") {
        menus.retain(|m| m.name.contains(name.as_str()));
    }
    if menus.is_empty() {
        eprintln!("no space has such a name");
        return ExitCode::FAILURE;
    }
    let limit = number("--states").unwrap_or(usize::MAX);
    std::panic::set_hook(Box::new(|_| {}));
    let mut failed = 0;
    let (mut passed, mut states) = (0, 0);
    let actions = number("--actions");
    let explored = |mut menu: Menu| {
        menu.actions = actions.map_or(menu.actions, |actions| actions as u8);
        let found = search::explore(&menu, limit);
        (menu, found)
    };
    aside::side_by_side(menus, explored, |(menu, found)| {
        println!(
            "{:<50} {} nodes {} programs {} actions: {:>10} states {:>11} steps {:>9} at rest {:>6.1} s{}",
            menu.name,
            menu.nodes,
            menu.homes.len(),
            menu.actions,
            found.states,
            found.steps,
            found.at_rest,
            found.took.as_secs_f64(),
            if found.whole { "" } else { "  (not all)" },
        );
        states += found.states;
        match found.broken {
            Some(broken) => {
                println!("BROKEN: {}\n{}", broken.fault, search::tell(&menu, &broken));
                failed += 1;
            }
            None => passed += 1,
        }
        failed == 0 || has("--all")
    });
    println!("{states} states");
    println!("test result: {}. {passed} passed; {failed} failed", if failed == 0 { "ok" } else { "FAILED" });
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
