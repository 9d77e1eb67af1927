//! The indexes of the stored log.

use ::mongodb as driver;
use driver::IndexModel;
use driver::bson::{Document, doc};
use driver::options::IndexOptions;

/// The act of an event: `(room, from, id)` names it once. Ids of version 7 grow with time: with the id first, a batch
/// touches the end of this index and little else.
pub(super) const ACT: &str = "act";
/// Events about a message.
pub(super) const TARGET: &str = "target";
/// The fences of a room.
pub(super) const FENCE: &str = "fence";

/// Once the words of messages, which have an index of their own now.
pub(in super::super) const WORDS: &str = "words";

/// Those of the collection `events`, beside that of `_id`.
pub(in super::super) fn events() -> Vec<IndexModel> {
    vec![
        partial(
            ACT,
            true,
            doc! { "id": 1, "_id.room": 1, "from": 1 },
            doc! { "id": { "$exists": true } },
        ),
        partial(
            TARGET,
            false,
            doc! { "_id.room": 1, "body.target": 1, "body.kind": 1, "_id.seq": -1 },
            doc! { "body.target": { "$exists": true } },
        ),
        partial(
            FENCE,
            false,
            doc! { "_id.room": 1, "_id.seq": -1 },
            doc! { "body.kind": super::kind::FENCE },
        ),
    ]
}

/// Those of the collection `forgotten`.
pub(in super::super) fn forgotten() -> Vec<IndexModel> {
    vec![
        partial(
            "unpurged",
            false,
            doc! { "purged": 1 },
            doc! { "purged": false },
        ),
        partial(
            "indexed",
            false,
            doc! { "indexed": 1 },
            doc! { "indexed": { "$exists": true } },
        ),
    ]
}

/// An index of the documents that have what `filter` says.
fn partial(name: &str, unique: bool, keys: Document, filter: Document) -> IndexModel {
    let options = IndexOptions::builder()
        .name(name.to_owned())
        .unique(unique)
        .partial_filter_expression(filter)
        .build();
    IndexModel::builder().keys(keys).options(options).build()
}
