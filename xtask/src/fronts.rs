//! Tasks that only start a program of another crate, optimised, with the arguments they were given.
//!
//! To add one, write a line in [`FRONTS`].

use std::process::Command;

use crate::context::{Context, Failure, run};

/// A task and the cargo command behind it.
pub(crate) struct Front {
    /// `cargo xtask NAME`.
    pub(crate) name: &'static str,
    /// For the list of tasks.
    pub(crate) help: &'static str,
    /// What cargo is told; the arguments of the task follow behind `--`.
    cargo: &'static [&'static str],
}

/// All of them.
pub(crate) const FRONTS: &[Front] = &[
    Front {
        name: "explore",
        help: "explores the lock room in full: [--full] [--name PART] [--actions N] [--states N]",
        cargo: &[
            "test",
            "--quiet",
            "--release",
            "--package",
            "oarlock-lock",
            "--features",
            "planted",
            "--test",
            "explore",
        ],
    },
    Front {
        name: "sim",
        help: "simulates clusters: [--seeds N] [--from S] [--seconds T] [--seed S] [--history FILE] [--check FILE]",
        cargo: &["run", "--quiet", "--profile", "sim", "--package", "oarlock-sim", "--bin", "oarlock-sim"],
    },
    Front {
        name: "sim-planted",
        help: "plants each bug and names the checker that notices: [--seeds N]",
        cargo: &[
            "run",
            "--quiet",
            "--profile",
            "sim",
            "--package",
            "oarlock-sim",
            "--features",
            "planted",
            "--bin",
            "oarlock-sim",
            "--",
            "--planted",
        ],
    },
    Front {
        name: "chaos",
        help: "real daemons and programs in bad weather, judged: [--seconds N] [--seed N] [--keep] [--json]",
        cargo: &["run", "--quiet", "--release", "--package", "oarlock-chaos", "--bin", "oarlock-chaos"],
    },
    Front {
        name: "bench",
        help: "measures beside anchors and peers: local|lock|dlm|net [--json] [--peers] [--goal N] [--quick] [--check-goals]",
        cargo: &["run", "--quiet", "--release", "--package", "oarlock-bench", "--bin", "oarlock-bench"],
    },
    Front {
        name: "man",
        help: "writes the man pages: DIR",
        cargo: &["run", "--quiet", "--package", "oarlockd", "--bin", "oarlock", "--", "man"],
    },
];

impl Front {
    /// The front with this name.
    pub(crate) fn find(name: &str) -> Option<&'static Front> {
        FRONTS.iter().find(|f| f.name == name)
    }

    /// The whole command.
    pub(crate) fn command(&self, context: &Context, args: &[String]) -> Command {
        let mut command = context.cargo();
        command.args(self.cargo);
        if !self.cargo.contains(&"--") {
            command.arg("--");
        }
        command.args(args);
        command
    }

    /// Runs it. It speaks for itself, so there is nothing to add.
    pub(crate) fn run(&self, context: &Context, args: &[String]) -> Result<String, Failure> {
        run(&mut self.command(context, args)).map(|()| String::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Volume;

    #[test]
    fn arguments_follow_the_dashes() {
        let context = Context::new(Volume::Ci);
        for front in FRONTS {
            let command = front.command(&context, &["--seconds".into(), "7".into()]);
            let args: Vec<_> = command.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
            let dashes = args.iter().position(|a| a == "--").expect("dashes");
            assert_eq!(args[args.len() - 2..], ["--seconds", "7"], "{}", front.name);
            assert!(dashes < args.len() - 2);
        }
    }
}
