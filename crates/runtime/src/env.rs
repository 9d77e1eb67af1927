//! Configuration from environment variables.
//!
//! One flat struct per concern, read by its prefix: [`read`]. Beside the struct stands the list of its [`Variable`]s,
//! which `--help` and `docs/configuration.md` are made of. An empty variable counts as not set, and every variable
//! `X` may come from the file that `X_FILE` names, unless `X_FILE` is a variable of its own. Values never appear in
//! errors: they may be secrets.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::{Display, Write as _};
use std::str::FromStr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, de};

/// A variable, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable {
    /// The full name, such as `DARDA_HTTP_ADDR`.
    pub name: &'static str,
    /// What holds when it is not set; empty when it then has no value.
    pub default: &'static str,
    /// What it is for: one sentence without a line break.
    pub meaning: &'static str,
}

/// A variable that stops the start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {reason}")]
pub struct EnvError {
    /// The full name.
    pub name: String,
    /// What is wrong and what would be right.
    pub reason: String,
}

impl EnvError {
    /// A variable whose value breaks a rule that its type cannot express.
    pub fn new(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            reason: reason.into(),
        }
    }
}

const FILE_SUFFIX: &str = "_FILE";

/// Reads the struct whose fields are the variables with this prefix, in lower case and without it.
///
/// # Errors
/// Names the first variable that is missing, cannot be read, or has a value of another form than its field.
pub fn read<T: DeserializeOwned>(prefix: &str) -> Result<T, EnvError> {
    read_from(prefix, std::env::vars_os())
}

/// As [`read`], from other variables than those of this process.
///
/// # Errors
/// As [`read`].
pub fn read_from<T: DeserializeOwned>(
    prefix: &str,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<T, EnvError> {
    let values = gather(prefix, fields::<T>(), variables)?;
    let full = |field: &str| format!("{prefix}{}", field.to_uppercase());
    match envy::prefixed(prefix).from_iter::<_, Located<T>>(values) {
        Ok(Located(Ok(config))) => Ok(config),
        Ok(Located(Err((field, reason)))) => match reason.strip_prefix(MISSING) {
            Some(field) => Err(EnvError::new(full(field), "must be set")),
            None => Err(EnvError::new(full(&field), advice(&reason))),
        },
        Err(error) => Err(EnvError::new(format!("{prefix}…"), error.to_string())),
    }
}

/// How envy begins its sentence about a variable that is not there.
const MISSING: &str = "missing value for field ";

/// Values of the prefix: no empty ones, and those that live in files read from there. Not read are files that a variable
/// with a field of its own names.
fn gather(
    prefix: &str,
    fields: &[&str],
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<BTreeMap<String, String>, EnvError> {
    let mut values = BTreeMap::new();
    for (name, value) in variables {
        let Some(name) = name.to_str().filter(|name| name.starts_with(prefix)) else {
            continue;
        };
        let value = value
            .into_string()
            .map_err(|_| EnvError::new(name, "must be UTF-8"))?;
        if !value.is_empty() {
            values.insert(name.to_owned(), value);
        }
    }
    let in_files: Vec<String> = values
        .keys()
        .filter(|name| !fields.contains(&name[prefix.len()..].to_lowercase().as_str()))
        .filter_map(|name| name.strip_suffix(FILE_SUFFIX))
        .map(str::to_owned)
        .collect();
    for name in in_files {
        let by_file = format!("{name}{FILE_SUFFIX}");
        if values.contains_key(&name) {
            let reason = format!("is set together with {name}; set one of the two");
            return Err(EnvError::new(by_file, reason));
        }
        let path = values.remove(&by_file).unwrap_or_default();
        let text = std::fs::read_to_string(&path)
            .map_err(|error| EnvError::new(by_file, format!("cannot read {path}: {error}")))?;
        let text = text.trim_end_matches(['\r', '\n']);
        if !text.is_empty() {
            values.insert(name, text.to_owned());
        }
    }
    Ok(values)
}

/// The names of a struct's fields.
fn fields<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut fields: &'static [&'static str] = &[];
    // It gives nothing to make a `T` of; a struct says what it wants all the same.
    let _ = T::deserialize(Asked(&mut fields));
    fields
}

/// A deserializer that keeps what a struct asks for.
struct Asked<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Asked<'_> {
    type Error = de::value::Error;

    fn deserialize_any<V: de::Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom("nothing is read here"))
    }

    fn deserialize_struct<V: de::Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        self.deserialize_any(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// The result of reading `T`, or the field and the reason: envy itself forgets the field for most types.
struct Located<T>(Result<T, (String, String)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Located<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = serde_path_to_error::deserialize(deserializer);
        Ok(Self(read.map_err(|error| {
            let path = error.path().to_string();
            // In a list the path goes on, such as `origins[1]`.
            let field = path.split('[').next().unwrap_or_default().to_owned();
            (field, error.into_inner().to_string())
        })))
    }
}

/// What would be right, from the words of the parser; cuts off the value, which may be a secret.
fn advice(reason: &str) -> String {
    let reason = match reason.split_once(" while parsing value '") {
        Some((reason, _)) => reason,
        None => reason,
    };
    match reason {
        "invalid digit found in string" => "must be a whole number".to_owned(),
        "invalid float literal" => "must be a number".to_owned(),
        "provided string was not `true` or `false`" => "must be true or false".to_owned(),
        "number too large to fit in target type" => "the number is too large".to_owned(),
        "number too small to fit in target type" => "the number is too small".to_owned(),
        "invalid socket address syntax" => {
            "must be an address with a port, such as 127.0.0.1:8080 or [::1]:8080".to_owned()
        }
        other => other.to_owned(),
    }
}

/// Seconds, whole or with a fraction, for `#[serde(deserialize_with = "runtime::env::secs")]`.
///
/// # Errors
/// When the text is not a number from 0 to 10^9.
pub fn secs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.trim()
        .parse()
        .ok()
        .filter(|secs| (0.0..=1e9).contains(secs))
        .and_then(|secs| Duration::try_from_secs_f64(secs).ok())
        .ok_or_else(|| de::Error::custom("must be a number of seconds"))
}

/// Things separated by commas, white space around them ignored.
///
/// # Errors
/// In the words of the first part that cannot be parsed.
pub fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    let text = String::deserialize(deserializer)?;
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| part.parse().map_err(de::Error::custom))
        .collect()
}

/// Read by `darda`, the terminal client, and so no mistakes where a server runs on the same machine.
const OF_CLIENTS: [&str; 3] = ["DARDA_URL", "DARDA_USER", "DARDA_SETTINGS"];

/// Sentences about `DARDA_` variables of this process that no list knows, each with the name it may have meant.
#[must_use]
pub fn unknown(known: &[&[Variable]]) -> Vec<String> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    unknown_in(known, names)
}

fn unknown_in(known: &[&[Variable]], names: impl IntoIterator<Item = String>) -> Vec<String> {
    let known: Vec<&str> = known
        .iter()
        .flat_map(|list| list.iter())
        .map(|v| v.name)
        .collect();
    let mut strangers: Vec<String> = names
        .into_iter()
        .filter(|name| name.starts_with("DARDA_"))
        .filter(|name| {
            let base = name.strip_suffix(FILE_SUFFIX).unwrap_or(name);
            let is_known = |name: &str| known.contains(&name) || OF_CLIENTS.contains(&name);
            !is_known(name) && !is_known(base)
        })
        .collect();
    strangers.sort();
    strangers
        .into_iter()
        .map(|name| {
            let nearest = known.iter().min_by_key(|known| distance(&name, known));
            match nearest.filter(|known| distance(&name, known) <= 3) {
                Some(nearest) => format!("{name} is not a variable; did you mean {nearest}?"),
                None => format!("{name} is not a variable; --help lists them all"),
            }
        })
        .collect()
}

/// How many letters must be changed, added or left out to make one text of the other.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// The text of `--help`.
#[must_use]
pub fn help(program: &str, about: &str, variables: &[&[Variable]]) -> String {
    format!(
        "{program}: {about}\n\nUsage: {program} [--help | --version]\n\n{}",
        described(variables)
    )
}

/// Every variable, with its default and meaning.
#[must_use]
pub fn described(variables: &[&[Variable]]) -> String {
    let mut text = "Everything is set by environment variables. An empty one counts as not set. Each may be read from a file\n\
         instead: NAME_FILE=/path/to/file.\n\n"
        .to_owned();
    for variable in variables.iter().flat_map(|list| list.iter()) {
        let default = match variable.default {
            "" => String::new(),
            default => format!(" [{default}]"),
        };
        let _ = writeln!(
            text,
            "  {}{default}\n      {}",
            variable.name, variable.meaning
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Colour {
        Red,
        Blue,
    }

    #[derive(Debug, Deserialize)]
    struct Config {
        addr: SocketAddr,
        #[serde(default)]
        size: Option<usize>,
        #[serde(default)]
        on: bool,
        #[serde(default)]
        colour: Option<Colour>,
        #[serde(default, deserialize_with = "secs")]
        wait_secs: Duration,
        #[serde(default, deserialize_with = "list")]
        peers: Vec<SocketAddr>,
        #[serde(default)]
        token: String,
    }

    fn load(variables: &[(&str, &str)]) -> Result<Config, EnvError> {
        let mut all = vec![("DARDA_X_ADDR", "127.0.0.1:1")];
        all.retain(|(name, _)| variables.iter().all(|(other, _)| other != name));
        all.extend_from_slice(variables);
        read_from(
            "DARDA_X_",
            all.iter().map(|(name, value)| (name.into(), value.into())),
        )
    }

    #[test]
    fn a_struct_is_read_by_its_prefix() {
        let config = load(&[
            ("DARDA_X_SIZE", "7"),
            ("DARDA_X_ON", "true"),
            ("DARDA_X_COLOUR", "blue"),
            ("DARDA_X_WAIT_SECS", "1.5"),
            ("DARDA_X_PEERS", " 127.0.0.1:1, [::1]:2 ,"),
            ("DARDA_Y_SIZE", "no"),
        ])
        .unwrap();
        assert_eq!(config.addr.port(), 1);
        assert_eq!(config.size, Some(7));
        assert!(config.on);
        assert!(matches!(config.colour, Some(Colour::Blue)));
        assert!(!matches!(config.colour, Some(Colour::Red)));
        assert_eq!(config.wait_secs, Duration::from_millis(1500));
        assert_eq!(config.peers.len(), 2);
    }

    #[test]
    fn an_empty_variable_counts_as_not_set() {
        assert_eq!(load(&[("DARDA_X_SIZE", "")]).unwrap().size, None);
        let error = load(&[("DARDA_X_ADDR", "")]).unwrap_err();
        assert_eq!(error.to_string(), "DARDA_X_ADDR: must be set");
    }

    #[test]
    fn a_bad_value_is_named_and_not_repeated() {
        for (name, right) in [
            ("DARDA_X_ADDR", "must be an address"),
            ("DARDA_X_SIZE", "must be a whole number"),
            ("DARDA_X_ON", "must be true or false"),
            ("DARDA_X_WAIT_SECS", "must be a number of seconds"),
            ("DARDA_X_PEERS", "must be an address"),
        ] {
            let error = load(&[(name, "s3cret")]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{name}: {right}")), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
        let error = load(&[("DARDA_X_COLOUR", "green")]).unwrap_err();
        assert_eq!(error.name, "DARDA_X_COLOUR");
        assert!(error.reason.contains("`red`"), "{error}");
    }

    #[test]
    fn a_secret_can_come_from_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hush\n").unwrap();
        let path = file.path().to_str().unwrap();
        assert_eq!(load(&[("DARDA_X_TOKEN_FILE", path)]).unwrap().token, "hush");

        let error = load(&[("DARDA_X_TOKEN_FILE", path), ("DARDA_X_TOKEN", "a")]).unwrap_err();
        assert_eq!(error.name, "DARDA_X_TOKEN_FILE");
        let error = load(&[("DARDA_X_TOKEN_FILE", "/nowhere")]).unwrap_err();
        assert_eq!(error.name, "DARDA_X_TOKEN_FILE");
    }

    #[test]
    fn a_variable_that_is_a_file_by_its_own_name_is_not_read() {
        #[derive(Debug, Deserialize)]
        struct Trust {
            ca_file: Option<std::path::PathBuf>,
            token: Option<String>,
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hush").unwrap();
        let path = file.path().to_str().unwrap();
        let read = |variables: &[(&str, &str)]| {
            let variables = variables.iter().map(|(n, v)| (n.into(), v.into()));
            read_from::<Trust>("DARDA_X_", variables).unwrap()
        };
        let trust = read(&[
            ("DARDA_X_CA_FILE", "/nowhere"),
            ("DARDA_X_TOKEN_FILE", path),
        ]);
        assert_eq!(trust.ca_file.unwrap().to_str(), Some("/nowhere"));
        assert_eq!(trust.token.as_deref(), Some("hush"));
        let trust = read(&[("DARDA_X_CA_FILE_FILE", path)]);
        assert_eq!(trust.ca_file.unwrap().to_str(), Some("hush"));
    }

    const KNOWN: &[Variable] = &[
        Variable {
            name: "DARDA_HTTP_ADDR",
            default: "127.0.0.1:8080",
            meaning: "Where to listen.",
        },
        Variable {
            name: "DARDA_DATA_DIR",
            default: "./data",
            meaning: "Where data lives.",
        },
    ];

    #[test]
    fn a_misspelt_variable_is_pointed_out() {
        let names = ["DARDA_HTTP_ADR", "DARDA_DATA_DIR", "DARDA_DATA_DIR_FILE"];
        let names = names
            .into_iter()
            .chain(["DARDA_COLOUR", "DARDA_USER", "PATH"]);
        assert_eq!(
            unknown_in(&[KNOWN], names.map(str::to_owned)),
            [
                "DARDA_COLOUR is not a variable; --help lists them all",
                "DARDA_HTTP_ADR is not a variable; did you mean DARDA_HTTP_ADDR?",
            ]
        );
    }

    #[test]
    fn help_lists_every_variable() {
        let text = help("darda", "a chat", &[KNOWN]);
        assert!(text.contains("  DARDA_DATA_DIR [./data]\n      Where data lives.\n"));
    }
}
