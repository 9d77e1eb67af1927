//! The command line of a service: `--help`, `--version`, and nothing else.

use crate::env::{self, EnvError, Variable};
use crate::telemetry::{self, Telemetry};
use crate::trace;

/// A program, as it describes itself.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    pub name: &'static str,
    pub version: &'static str,
    /// One line.
    pub about: &'static str,
    /// Every variable it reads.
    pub variables: &'static [&'static [Variable]],
}

/// What the arguments ask for.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    Run,
    Say(String),
    Refuse(String),
}

impl Program {
    /// The first line of every `main`: answers `--help` and `--version`, refuses other arguments, and starts telemetry.
    /// Returns when the program shall run. Within a runtime of tokio.
    ///
    /// # Errors
    /// When a variable of telemetry is bad.
    pub fn start(&self) -> Result<Telemetry, EnvError> {
        match self.wish(std::env::args().skip(1)) {
            Wish::Run => {}
            Wish::Say(text) => {
                println!("{}", text.trim_end());
                std::process::exit(0);
            }
            Wish::Refuse(text) => {
                eprintln!("{text}");
                std::process::exit(2);
            }
        }
        let is_traced = self.variables.contains(&trace::VARIABLES);
        let telemetry = telemetry::start(&[], is_traced.then_some((self.name, self.version)))?;
        for warning in env::unknown(self.variables) {
            tracing::warn!("{warning}");
        }
        Ok(telemetry)
    }

    fn wish(&self, arguments: impl Iterator<Item = String>) -> Wish {
        let arguments: Vec<String> = arguments.collect();
        match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [] => Wish::Run,
            ["--help" | "-h"] => Wish::Say(env::help(self.name, self.about, self.variables)),
            ["--version" | "-V"] => Wish::Say(format!("{} {}", self.name, self.version)),
            _ => Wish::Refuse(format!(
                "{} takes no arguments but --help and --version; it is set up by environment variables",
                self.name
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_help_and_version_are_understood() {
        let program = Program {
            name: "x",
            version: "1",
            about: "about",
            variables: &[telemetry::VARIABLES],
        };
        let wish = |arguments: &[&str]| program.wish(arguments.iter().map(|a| (*a).to_owned()));
        assert_eq!(wish(&[]), Wish::Run);
        assert_eq!(wish(&["--version"]), Wish::Say("x 1".to_owned()));
        let Wish::Say(help) = wish(&["--help"]) else {
            panic!("no help");
        };
        assert!(help.contains("DARDA_LOG_FORMAT [text]"));
        assert!(matches!(wish(&["--port", "1"]), Wish::Refuse(_)));
    }
}
