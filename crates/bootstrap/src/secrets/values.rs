//! What belongs into the Secret.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rand::distr::{Alphanumeric, SampleString as _};

use super::Data;
use crate::config::{Host, Hosts};

const PASSWORD_LEN: usize = 32;
const COOKIE_LEN: usize = 48;
const KEY_LEN: usize = 512;
/// Everything else is written as `%40` and so on; what this program makes has none of it.
const IN_URL: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// The keys that are not there, or empty, and the URLs that no longer follow from the rest.
#[must_use]
pub fn lacking(hosts: &Hosts, data: &Data) -> Data {
    let mut all = data.clone();
    all.retain(|_, value| !value.is_empty());
    let mut secret = |key: &str, len| {
        let made = || Alphanumeric.sample_string(&mut rand::rng(), len);
        all.entry(key.to_owned()).or_insert_with(made).clone()
    };
    let mut urls = Data::new();
    if let Some(host) = &hosts.redis {
        let password = secret("redis-password", PASSWORD_LEN);
        let url = format!("redis://darda:{}@{host}", in_url(&password));
        urls.insert("redis-url".to_owned(), url);
    }
    if let Some(host) = &hosts.rabbitmq {
        let password = secret("rabbitmq-password", PASSWORD_LEN);
        let url = format!("amqp://darda:{}@{host}/darda", in_url(&password));
        urls.insert("rabbitmq-url".to_owned(), url);
        let password = secret("rabbitmq-admin-password", PASSWORD_LEN);
        let url = format!("http://admin:{}@{}:15672", in_url(&password), host.name());
        urls.insert("rabbitmq-admin-url".to_owned(), url);
        secret("rabbitmq-erlang-cookie", COOKIE_LEN);
    }
    if !hosts.mongodb.is_empty() {
        let password = secret("mongodb-password", PASSWORD_LEN);
        let members: Vec<_> = hosts.mongodb.iter().map(Host::as_str).collect();
        let url = format!(
            "mongodb://darda:{}@{}/darda?replicaSet={}&authSource=admin",
            in_url(&password),
            members.join(","),
            hosts.replica_set
        );
        urls.insert("mongodb-uri".to_owned(), url);
        secret("mongodb-keyfile", KEY_LEN);
    }
    all.extend(urls);
    all.retain(|key, value| data.get(key) != Some(value));
    all
}

fn in_url(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, IN_URL)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> Hosts {
        let host = |text: &str| text.parse::<Host>().unwrap();
        Hosts {
            redis: Some(host("r:6379")),
            rabbitmq: Some(host("b:5672")),
            mongodb: vec![host("m-0:27017"), host("m-1:27017")],
            replica_set: "rs0".to_owned(),
        }
    }

    #[test]
    fn an_empty_secret_gets_everything() {
        let made = lacking(&hosts(), &Data::new());
        assert_eq!(made.len(), 10);
        for (key, len) in [
            ("redis-password", 32),
            ("rabbitmq-password", 32),
            ("rabbitmq-admin-password", 32),
            ("mongodb-password", 32),
            ("rabbitmq-erlang-cookie", 48),
            ("mongodb-keyfile", 512),
        ] {
            let value = &made[key];
            assert_eq!(value.len(), len, "{key}");
            assert!(value.bytes().all(|b| b.is_ascii_alphanumeric()), "{key}");
        }
        let password = |key: &str| made[key].clone();
        let (redis, rabbitmq) = (password("redis-password"), password("rabbitmq-password"));
        let (admin, mongodb) = (
            password("rabbitmq-admin-password"),
            password("mongodb-password"),
        );
        assert_eq!(made["redis-url"], format!("redis://darda:{redis}@r:6379"));
        assert_eq!(
            made["rabbitmq-url"],
            format!("amqp://darda:{rabbitmq}@b:5672/darda")
        );
        assert_eq!(
            made["rabbitmq-admin-url"],
            format!("http://admin:{admin}@b:15672")
        );
        let uri = format!(
            "mongodb://darda:{mongodb}@m-0:27017,m-1:27017/darda?replicaSet=rs0&authSource=admin"
        );
        assert_eq!(made["mongodb-uri"], uri);
        assert_ne!(redis, rabbitmq);
        assert!(lacking(&hosts(), &made).is_empty());
    }

    #[test]
    fn what_is_there_stays_and_urls_follow_it() {
        let mut data = lacking(&hosts(), &Data::new());
        data.insert("redis-password".to_owned(), "p@ss".to_owned());
        data.insert("of-somebody-else".to_owned(), "x".to_owned());
        data.insert("mongodb-password".to_owned(), String::new());
        let mut hosts = hosts();
        hosts.rabbitmq = Some("other:5672".parse().unwrap());
        let made = lacking(&hosts, &data);
        let keys: Vec<_> = made.keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "mongodb-password",
                "mongodb-uri",
                "rabbitmq-admin-url",
                "rabbitmq-url",
                "redis-url"
            ]
        );
        assert_eq!(made["redis-url"], "redis://darda:p%40ss@r:6379");
        assert!(made["rabbitmq-url"].contains(&data["rabbitmq-password"]));
    }

    #[test]
    fn of_a_server_that_is_somebody_elses_nothing_is_made() {
        let only_redis = Hosts {
            redis: hosts().redis,
            ..Hosts::default()
        };
        let made = lacking(&only_redis, &Data::new());
        let keys: Vec<_> = made.keys().map(String::as_str).collect();
        assert_eq!(keys, ["redis-password", "redis-url"]);
    }
}
