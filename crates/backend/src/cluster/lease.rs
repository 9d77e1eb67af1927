//! Work that one process does at a time: who does it holds a lock in MongoDB, for a while.

use std::time::Duration;

use ::mongodb as driver;
use driver::Collection;
use driver::bson::doc;
use driver::options::ReturnDocument;
use serde::Deserialize;

use super::mongo::{Mongo, is_duplicate, trouble};
use crate::Result;

/// The collection of all locks; the version of the database is in it as well.
pub(super) const COLLECTION: &str = "migrations";

#[derive(Deserialize)]
pub(super) struct Lock {
    holder: String,
}

/// Takes or keeps a lock; answers whether the holder has it now. The time is the server's, so that clocks need not agree.
///
/// # Errors
/// `Unavailable`.
pub(super) async fn take(mongo: &Mongo, name: &str, holder: &str, lease: Duration) -> Result<bool> {
    let locks: Collection<Lock> = mongo.collection(COLLECTION);
    let lease = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
    // A lock that was never taken has no end and counts as over.
    let free = doc! { "$lt": ["$until", "$$NOW"] };
    let mine = doc! { "$eq": ["$holder", holder] };
    let gets = doc! { "$or": [free, mine] };
    let until = doc! { "$add": ["$$NOW", lease] };
    let lock = locks
        .find_one_and_update(
            doc! { "_id": name },
            vec![doc! { "$set": {
                "holder": { "$cond": [&gets, holder, "$holder"] },
                "until": { "$cond": [&gets, until, "$until"] },
            } }],
        )
        .upsert(true)
        .return_document(ReturnDocument::After);
    match mongo.attempt(lock).await? {
        Ok(lock) => Ok(lock.is_some_and(|lock| lock.holder == holder)),
        // Somebody else made it at this moment.
        Err(error) if is_duplicate(&error) => Ok(false),
        Err(error) => Err(trouble(&error)),
    }
}
