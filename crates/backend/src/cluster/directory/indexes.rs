//! The indexes that the queries of the directory need.

use bson::{Document, doc};
use mongodb::options::IndexOptions;
use mongodb::{IndexModel, bson};

use super::documents::{ANNOUNCEMENTS, INVITES, MEMBERS, ROOMS};

/// The collections of the directory and their indexes.
pub(in super::super) fn indexes() -> [(&'static str, Vec<IndexModel>); 4] {
    [
        (
            ROOMS,
            vec![
                plain(by_kind()),
                unique(doc! { "pair": 1 }),
                partial(by_gram(), "grams"),
                partial(doc! { "emptying": 1 }, "emptying"),
            ],
        ),
        (MEMBERS, vec![plain(by_user())]),
        (INVITES, vec![plain(doc! { "room": 1, "by": 1 })]),
        (
            ANNOUNCEMENTS,
            vec![
                plain(doc! { "at": 1, "n": 1 }),
                plain(doc! { "maker": 1, "at": 1, "n": 1 }),
                plain(doc! { "room": 1, "at": 1, "n": 1 }),
            ],
        ),
    ]
}

/// Rooms of a kind in order of id.
pub(super) fn by_kind() -> Document {
    doc! { "kind": 1, "_id": 1 }
}

/// Public rooms whose words contain something, in order of id.
pub(super) fn by_gram() -> Document {
    doc! { "grams": 1, "_id": 1 }
}

/// The memberships of a user in order of room.
pub(super) fn by_user() -> Document {
    doc! { "_id.user": 1, "_id.room": 1 }
}

fn plain(keys: Document) -> IndexModel {
    IndexModel::builder().keys(keys).build()
}

/// Of the documents that have the field.
fn partial(keys: Document, field: &str) -> IndexModel {
    let options = IndexOptions::builder()
        .partial_filter_expression(doc! { field: { "$exists": true } })
        .build();
    IndexModel::builder().keys(keys).options(options).build()
}

/// Unique among the documents that have the field.
fn unique(keys: Document) -> IndexModel {
    let field = keys.keys().next().cloned().unwrap_or_default();
    let mut model = partial(keys, &field);
    if let Some(options) = &mut model.options {
        options.unique = Some(true);
    }
    model
}
