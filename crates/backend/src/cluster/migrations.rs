//! What the database is made of, in steps. Every process runs them at its start; one does the work, the others wait.
//!
//! The collection `migrations` holds the version that was reached and a lock with a lease. Every step may be broken off
//! and run again.

use std::pin::Pin;
use std::time::Duration;

use ::mongodb as driver;
use driver::bson::{Document, doc};
use driver::{Collection, IndexModel};
use serde::Deserialize;

use super::lease::Lock;
use super::mongo::{Mongo, trouble};
use super::{lease, search, store};
use crate::{Error, Result};

/// A step from one version of the database to the next.
struct Migration {
    name: &'static str,
    run: fn(&Mongo) -> Running<'_>,
}

type Running<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

/// All steps, in order; the version is how many were done. Only added to, once released.
const MIGRATIONS: &[Migration] = &[
    Migration {
        name: "events",
        run: |mongo| Box::pin(events(mongo)),
    },
    Migration {
        name: "directory",
        run: |mongo| Box::pin(directory(mongo)),
    },
    // Made an index that the next one drops.
    Migration {
        name: "search",
        run: |_| Box::pin(async { Ok(()) }),
    },
    Migration {
        name: "segments",
        run: |mongo| Box::pin(segments(mongo)),
    },
];

async fn events(mongo: &Mongo) -> Result<()> {
    make_indexes(mongo, store::EVENTS, store::indexes::events()).await?;
    make_indexes(mongo, store::FORGOTTEN, store::indexes::forgotten()).await
}

async fn segments(mongo: &Mongo) -> Result<()> {
    make_indexes(mongo, search::index::COLLECTION, search::index::indexes()).await?;
    // Of a version that had tombstones without it.
    make_indexes(mongo, store::FORGOTTEN, store::indexes::forgotten()).await?;
    drop_index(mongo, store::EVENTS, store::indexes::WORDS).await
}

/// Drops an index that an earlier version had, if it is there.
async fn drop_index(mongo: &Mongo, collection: &str, name: &str) -> Result<()> {
    const NOT_FOUND: [i32; 2] = [26, 27];
    let collection: Collection<Document> = mongo.collection(collection);
    let dropped = mongo.attempt(collection.drop_index(name)).await?;
    match dropped {
        Err(error) if !is_command(&error, &NOT_FOUND) => Err(trouble(&error)),
        _ => Ok(()),
    }
}

fn is_command(error: &driver::error::Error, codes: &[i32]) -> bool {
    match error.kind.as_ref() {
        driver::error::ErrorKind::Command(command) => codes.contains(&command.code),
        _ => false,
    }
}

async fn directory(mongo: &Mongo) -> Result<()> {
    for (collection, indexes) in super::directory::indexes() {
        make_indexes(mongo, collection, indexes).await?;
    }
    Ok(())
}

/// Makes a collection's indexes, those that exist excepted.
pub(super) async fn make_indexes(
    mongo: &Mongo,
    collection: &str,
    indexes: Vec<IndexModel>,
) -> Result<()> {
    let collection: Collection<Document> = mongo.collection(collection);
    mongo
        .run_within(STEP_WITHIN, collection.create_indexes(indexes))
        .await?;
    Ok(())
}

/// How long one step may take.
const STEP_WITHIN: Duration = Duration::from_secs(3600);
/// How long a lock holds without being renewed.
const LEASE: Duration = Duration::from_secs(15);
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// How long a process waits for another's work, and how often it looks.
const WAIT_MAX: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(100);

const COLLECTION: &str = lease::COLLECTION;
const VERSION: &str = "version";
const LOCK: &str = "lock";

#[derive(Deserialize)]
struct Version {
    version: i64,
}

/// Brings the database to the version of this program. Any number of processes may call it at once.
///
/// # Errors
/// `Refused` when the database is newer than the program; `Unavailable` when MongoDB is away, or another process is still
/// at work after two minutes.
pub async fn migrate(mongo: &Mongo) -> Result<()> {
    migrate_by(mongo, MIGRATIONS).await
}

/// Whether [`migrate`] has nothing to do.
///
/// # Errors
/// `Unavailable`.
pub async fn is_current(mongo: &Mongo) -> Result<bool> {
    is_done(mongo, MIGRATIONS).await
}

async fn migrate_by(mongo: &Mongo, migrations: &'static [Migration]) -> Result<()> {
    let holder = uuid::Uuid::now_v7().to_string();
    let waited = tokio::time::timeout(WAIT_MAX, async {
        while !is_done(mongo, migrations).await? {
            if lock(mongo, &holder).await? {
                return Ok(false);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(true)
    });
    match waited.await {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => {
            let done = work(mongo, migrations, &holder).await;
            // Otherwise the lease runs out.
            let unlocked = unlock(mongo, &holder).await;
            done.and(unlocked)
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Error::unavailable(
            "another process is still migrating the database",
        )),
    }
}

/// Whether every step was done.
async fn is_done(mongo: &Mongo, migrations: &[Migration]) -> Result<bool> {
    Ok(version(mongo).await? == known(migrations)?)
}

fn known(migrations: &[Migration]) -> Result<i64> {
    i64::try_from(migrations.len()).map_err(|_| Error::Corrupt("too many migrations".to_owned()))
}

/// Does what is left, holding the lock all the while.
async fn work(mongo: &Mongo, migrations: &'static [Migration], holder: &str) -> Result<()> {
    tokio::select! {
        done = steps(mongo, migrations) => done,
        lost = keep(mongo, holder) => Err(lost),
    }
}

async fn steps(mongo: &Mongo, migrations: &'static [Migration]) -> Result<()> {
    let done = version(mongo).await?;
    if done > known(migrations)? {
        return Err(newer(done, migrations));
    }
    for (number, migration) in (1_i64..).zip(migrations) {
        if number <= done {
            continue;
        }
        tracing::info!(
            version = number,
            name = migration.name,
            "migrating the database"
        );
        (migration.run)(mongo).await?;
        let versions: Collection<Version> = mongo.collection(COLLECTION);
        let reached = versions
            .update_one(
                doc! { "_id": VERSION },
                doc! { "$max": { "version": number } },
            )
            .upsert(true);
        mongo.run(reached).await?;
    }
    Ok(())
}

fn newer(version: i64, migrations: &[Migration]) -> Error {
    Error::Refused(format!(
        "the database is of version {version}, newer than this program, which knows {}; run a newer program",
        migrations.len()
    ))
}

async fn version(mongo: &Mongo) -> Result<i64> {
    let versions: Collection<Version> = mongo.collection(COLLECTION);
    let version = mongo
        .run(versions.find_one(doc! { "_id": VERSION }))
        .await?;
    Ok(version.map_or(0, |v| v.version))
}

/// Takes or keeps the lock.
async fn lock(mongo: &Mongo, holder: &str) -> Result<bool> {
    lease::take(mongo, LOCK, holder, LEASE).await
}

/// Renews the lock until that fails.
async fn keep(mongo: &Mongo, holder: &str) -> Error {
    let mut failures = 0;
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        match lock(mongo, holder).await {
            Ok(true) => failures = 0,
            Ok(false) => return Error::unavailable("another process took over the migration"),
            Err(error) if failures > 0 => return error,
            Err(_) => failures += 1,
        }
    }
}

async fn unlock(mongo: &Mongo, holder: &str) -> Result<()> {
    let locks: Collection<Lock> = mongo.collection(COLLECTION);
    let mine = doc! { "_id": LOCK, "holder": holder };
    mongo.run(locks.delete_one(mine)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    static RUNS: AtomicU32 = AtomicU32::new(0);

    const SLOW: &[Migration] = &[
        Migration {
            name: "events",
            run: |mongo| Box::pin(events(mongo)),
        },
        Migration {
            name: "slow",
            run: |_| {
                Box::pin(async {
                    RUNS.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(700)).await;
                    Ok(())
                })
            },
        },
    ];

    const BROKEN: &[Migration] = &[Migration {
        name: "broken",
        run: |_| Box::pin(async { Err(Error::unavailable("not today")) }),
    }];

    #[tokio::test(flavor = "multi_thread")]
    async fn many_at_once_do_the_work_once() {
        let Some(mongo) = crate::cluster::mongo::tests::open().await else {
            return;
        };
        let all: Vec<_> = (0..5)
            .map(|_| {
                let mongo = mongo.clone();
                tokio::spawn(async move { migrate_by(&mongo, SLOW).await })
            })
            .collect();
        for one in all {
            one.await.unwrap().expect("a migration");
        }
        assert_eq!(RUNS.load(Ordering::Relaxed), 1);
        assert_eq!(version(&mongo).await.unwrap(), 2);
        migrate_by(&mongo, SLOW).await.expect("nothing to do");

        let refused = migrate_by(&mongo, &SLOW[..1]).await.expect_err("a refusal");
        assert!(matches!(refused, Error::Refused(_)), "{refused}");
        assert!(refused.to_string().contains("version 2"), "{refused}");
        mongo.database().drop().await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_step_that_fails_can_be_run_again() {
        let Some(mongo) = crate::cluster::mongo::tests::open().await else {
            return;
        };
        migrate_by(&mongo, BROKEN).await.expect_err("it fails");
        migrate(&mongo).await.expect("the lock is free");
        assert_eq!(version(&mongo).await.unwrap(), MIGRATIONS.len() as i64);
        // A holder that died is waited for until its lease ends.
        assert!(lock(&mongo, "dead").await.unwrap());
        assert!(!lock(&mongo, "other").await.unwrap());
        let locks: Collection<Lock> = mongo.collection(COLLECTION);
        let age = vec![doc! { "$set": { "until": { "$subtract": ["$$NOW", 1] } } }];
        locks.update_one(doc! { "_id": LOCK }, age).await.unwrap();
        assert!(lock(&mongo, "other").await.unwrap());
        unlock(&mongo, "dead").await.unwrap();
        assert!(!lock(&mongo, "third").await.unwrap());
        mongo.database().drop().await.unwrap();
    }
}
