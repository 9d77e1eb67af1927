//! Virtual host, user, rights and queues.

use serde_json::json;
use testbed::{Generation, RabbitMq, RabbitMqOptions};

use super::bench::{Bench, skipped, with_bench};

impl Bench {
    fn user(&self) -> String {
        format!("/api/users/{}", self.namespace)
    }

    fn rights(&self) -> String {
        format!("/api/permissions/{0}/{0}", self.namespace)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_may_do_what_programs_do_and_no_more() {
    with_bench(async |bench: Bench| {
        let bench = bench.with_shared_mongodb().await;
        bench
            .check()
            .await
            .badly(1, &["not as"])
            .has("run would make the virtual host")
            .has("run would make the user");
        bench
            .run()
            .await
            .well()
            .has("rabbitmq: made the virtual host");
        let rights = bench.ask_rabbitmq("GET", &bench.rights(), None).await;
        let name = &bench.namespace;
        assert_eq!(rights["configure"], format!(r"^{name}\."));
        assert_eq!(rights["read"], format!(r"^{name}\."));
        assert_eq!(rights["write"], format!(r"^({name}\.|amq\.default$)"));
        let user = bench.ask_rabbitmq("GET", &bench.user(), None).await;
        assert_eq!(user["tags"], json!([]));
        let queues = bench
            .ask_rabbitmq("GET", &format!("/api/queues/{name}"), None)
            .await;
        let mut queues: Vec<_> = (queues.as_array().unwrap().iter())
            .map(|queue| queue["name"].as_str().unwrap().to_owned())
            .collect();
        queues.sort();
        let named = ["dead", "shard.0", "shard.1"].map(|queue| format!("{name}.persist.{queue}"));
        assert_eq!(queues, named);
        bench.check().await.well();
        bench.run().await.well().made_nothing();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_is_set_right() {
    with_bench(async |bench: Bench| {
        let bench = bench.with_shared_mongodb().await;
        bench.run().await.well();

        let other = json!({ "password": "another", "tags": "" });
        bench.ask_rabbitmq("PUT", &bench.user(), Some(other)).await;
        bench
            .check()
            .await
            .badly(1, &["1 thing"])
            .has("the password of DARDA_RABBITMQ_URL");
        bench.run().await.well().has("had another password");
        bench.run().await.well().made_nothing();

        let admin = json!({ "password": "s3cret", "tags": "administrator" });
        bench.ask_rabbitmq("PUT", &bench.user(), Some(admin)).await;
        let nothing = json!({ "configure": "", "write": "", "read": ".*" });
        bench
            .ask_rabbitmq("PUT", &bench.rights(), Some(nothing))
            .await;
        bench.check().await.badly(1, &["2 things"]);
        bench
            .run()
            .await
            .well()
            .has("could administer")
            .has("set the rights");
        let user = bench.ask_rabbitmq("GET", &bench.user(), None).await;
        assert_eq!(user["tags"], json!([]));

        bench.ask_rabbitmq("DELETE", &bench.rights(), None).await;
        bench.run().await.well().has("set the rights");
        let queue = format!("/api/queues/{0}/{0}.persist.shard.1", bench.namespace);
        bench.ask_rabbitmq("DELETE", &queue, None).await;
        bench
            .check()
            .await
            .badly(1, &["1 thing"])
            .has("run would declare");
        bench.run().await.well().has("declared").has_not("shard.0,");
        bench.run().await.well().made_nothing();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newer_broker_is_made_ready_as_well() {
    let generation = Generation::V4;
    if skipped(RabbitMq::missing_with(generation).unwrap_or_default()) {
        return;
    }
    with_bench(async |_| {
        let options = RabbitMqOptions {
            generation,
            management: true,
            ..RabbitMqOptions::default()
        };
        let rabbitmq = RabbitMq::start_with(options).await.unwrap();
        let bench = Bench::over(&rabbitmq).await.with_shared_mongodb().await;
        bench.run().await.well();
        let other = json!({ "password": "another", "tags": "administrator" });
        bench.ask_rabbitmq("PUT", &bench.user(), Some(other)).await;
        bench.run().await.well().has("could administer");
        bench.run().await.well().made_nothing();
        bench.check().await.well();
    })
    .await;
}

/// A queue of its name that is another kind of queue is nothing that may be thrown away.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_of_another_kind_stays_and_is_named() {
    with_bench(async |bench: Bench| {
        let bench = bench
            .with_shared_mongodb()
            .await
            .with("DARDA_BOOTSTRAP_WAIT_SECS", "1");
        let vhost = format!("/api/vhosts/{}", bench.namespace);
        bench.ask_rabbitmq("PUT", &vhost, Some(json!({}))).await;
        let queue = format!("/api/queues/{0}/{0}.persist.shard.0", bench.namespace);
        let classic = json!({ "durable": true });
        bench.ask_rabbitmq("PUT", &queue, Some(classic)).await;
        bench.run().await.badly(1, &["shard.0"]);
        let queue = bench.ask_rabbitmq("GET", &queue, None).await;
        assert_eq!(queue["type"], "classic");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_who_is_none_is_named() {
    with_bench(async |bench: Bench| {
        let bench = bench
            .with_shared_mongodb()
            .await
            .with("DARDA_BOOTSTRAP_WAIT_SECS", "1");
        let name = "DARDA_BOOTSTRAP_RABBITMQ_ADMIN_URL";
        let addr = bench.management;
        let other = bench.with(name, &format!("http://guest:s3cret@{addr}"));
        other.run().await.badly(1, &[name, "refuses", "waited 1 s"]);
        // It is no management API either.
        let other = bench.with(name, &format!("http://guest:s3cret@{}", bench.amqp));
        other.run().await.badly(1, &[name, "does not answer"]);
        let nobody = bench.with(name, "http://guest:s3cret@127.0.0.1:1");
        nobody.run().await.badly(1, &[name, "refused"]);
        nobody.check().await.badly(1, &[]).has("refused");
    })
    .await;
}

/// Without an administrator users and virtual host are somebody else's.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_of_somebody_else_gets_queues_alone() {
    with_bench(async |bench: Bench| {
        let bench = bench.with_shared_mongodb().await;
        let url = format!("amqp://guest:guest@{}/%2f", bench.amqp);
        let bench = bench
            .with("DARDA_BOOTSTRAP_RABBITMQ_ADMIN_URL", "")
            .with("DARDA_RABBITMQ_URL", &url);
        bench
            .run()
            .await
            .well()
            .has("declared")
            .has_not("virtual host");
        bench.run().await.well().made_nothing();
        let queue = format!("/api/queues/%2f/{}.persist.dead", bench.namespace);
        assert_eq!(
            bench.ask_rabbitmq("GET", &queue, None).await["durable"],
            true
        );
    })
    .await;
}
