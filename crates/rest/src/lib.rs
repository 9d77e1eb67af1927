//! What the REST surfaces of Darda share.
//!
//! A server wraps its app in [`observe`], which gives every answer a request id and turns what actix itself refuses
//! into problem documents, and counts with the app's [`Metrics`]. Handlers take [`Caller`] first, then [`Path`], [`Query`] or [`Json`], and answer with
//! [`ok`], [`created`] or a [`Refusal`]. [`access`] says who may see a room, [`auth`] how users are known. [`openapi`]
//! puts the descriptions of several
//! services together.

pub mod access;
pub mod auth;
mod caller;
pub mod cursor;
mod extract;
mod metrics;
mod observe;
pub mod openapi;
mod page;
mod problem;
mod refusal;
mod view;

pub use caller::{Caller, USER_HEADER};
pub use extract::{BODY_BYTES_MAX, Json, Path, Query, RoomPath};
pub use metrics::Metrics;
pub use observe::{REQUEST_ID_HEADER, observe, request_id};
pub use page::{LIMIT_DEFAULT, LIMIT_MAX, Limit, Page, created, no_content, ok};
pub use problem::{PROBLEM_JSON, Problem};
pub use refusal::{FieldError, Refusal};
pub use view::{Room, RoomKind};
