//! What the REST surfaces share: refusals and their problem documents, identity, request ids, paging.

mod refusal;

pub use refusal::{FieldError, Refusal};
