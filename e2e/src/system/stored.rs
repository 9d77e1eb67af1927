//! The logs as they lie in the database, read without any code of the product: what the checker compares the product's
//! answers with.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use mongodb::Client;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::ReadConcern;
use protocol::{Event, MessageId, RoomId, Seq, Timestamp};
use serde_json::{Map, Value, json};

/// The database of a session.
pub struct Stored {
    client: Client,
    database: String,
}

impl Stored {
    /// Connects to a replica set.
    ///
    /// # Errors
    /// When the address cannot be read.
    pub async fn new(uri: &str, database: &str) -> Result<Self> {
        Ok(Self {
            client: Client::with_uri_str(uri).await?,
            database: database.to_owned(),
        })
    }

    /// All events of a room, ascending.
    ///
    /// # Errors
    /// When the database is away, or holds something that is no event.
    pub async fn log(&self, room: &RoomId) -> Result<Vec<Arc<Event>>> {
        let filter = doc! {"_id.room": room.as_str()};
        let events = self
            .client
            .database(&self.database)
            .collection::<Document>("events");
        let found = events
            .find(filter)
            .sort(doc! {"_id.seq": 1})
            .read_concern(ReadConcern::majority());
        let mut found = found.await?;
        let mut log = Vec::new();
        while found.advance().await? {
            let document = found.deserialize_current()?;
            let event = event(&document).with_context(|| format!("stored is {document}"))?;
            log.push(Arc::new(event));
        }
        Ok(log)
    }

    /// The logs of rooms.
    ///
    /// # Errors
    /// As [`Stored::log`].
    pub async fn logs(&self, rooms: &[RoomId]) -> Result<BTreeMap<RoomId, Vec<Arc<Event>>>> {
        let mut logs = BTreeMap::new();
        for room in rooms {
            logs.insert(room.clone(), self.log(room).await?);
        }
        Ok(logs)
    }

    /// The last stored seq of a room.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn head(&self, room: &RoomId) -> Result<Seq> {
        let events = self
            .client
            .database(&self.database)
            .collection::<Document>("events");
        let last = events
            .find_one(doc! {"_id.room": room.as_str()})
            .sort(doc! {"_id.seq": -1});
        match last.await? {
            Some(document) => {
                Ok(seq(document.get_document("_id")?.get("seq"))?.unwrap_or_default())
            }
            None => Ok(Seq::ZERO),
        }
    }

    /// The generation of the log that is open.
    ///
    /// # Errors
    /// When the database is away or no process has begun.
    pub async fn generation(&self) -> Result<u64> {
        let all = self
            .client
            .database(&self.database)
            .collection::<Document>("generation");
        let record = all.find_one(doc! {"_id": "generation"}).await?;
        let record = record.context("there is no generation")?;
        Ok(record.get_i64("generation")?.unsigned_abs())
    }

    /// Removes everything of the session.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn drop(&self) -> Result<()> {
        Ok(self.client.database(&self.database).drop().await?)
    }
}

/// An event as it goes over the wire.
fn event(document: &Document) -> Result<Event> {
    let place = document.get_document("_id")?;
    let mut event = Map::new();
    event.insert("room".to_owned(), json!(place.get_str("room")?));
    event.insert("seq".to_owned(), json!(seq(place.get("seq"))?));
    event.insert("prev".to_owned(), json!(seq(document.get("prev"))?));
    let at = Timestamp::from_millis(document.get_i64("at")?);
    event.insert("at".to_owned(), json!(at));
    if let Some(Bson::String(from)) = document.get("from") {
        event.insert("from".to_owned(), json!(from));
    }
    if let Some(Bson::Binary(id)) = document.get("id") {
        let bytes = <[u8; 16]>::try_from(id.bytes.as_slice())?;
        event.insert("id".to_owned(), json!(MessageId::from_bytes(bytes)));
    }
    for (name, value) in document.get_document("body")? {
        let value = if name == "meta" {
            pairs(value)?
        } else {
            plain(value)?
        };
        event.insert(name.clone(), value);
    }
    Ok(serde_json::from_value(Value::Object(event))?)
}

fn seq(number: Option<&Bson>) -> Result<Option<Seq>> {
    match number {
        None | Some(Bson::Null) => Ok(None),
        Some(Bson::Int64(number)) => Ok(Some(Seq::new(u64::try_from(*number)?)?)),
        Some(other) => bail!("{other} is no seq"),
    }
}

fn plain(value: &Bson) -> Result<Value> {
    Ok(match value {
        Bson::Null => Value::Null,
        Bson::String(text) => json!(text),
        Bson::Boolean(is) => json!(is),
        Bson::Int64(number) => json!(number),
        other => bail!("{other} is in no event"),
    })
}

/// What senders add to a message is kept as pairs, so that no name of theirs is a field.
fn pairs(value: &Bson) -> Result<Value> {
    let pairs = value.as_array().context("meta is no list")?;
    let mut map = Map::new();
    for pair in pairs {
        match pair.as_array().map(Vec::as_slice) {
            Some([Bson::String(key), Bson::String(value)]) => map.insert(key.clone(), json!(value)),
            _ => bail!("{pair} is no pair"),
        };
    }
    Ok(Value::Object(map))
}
