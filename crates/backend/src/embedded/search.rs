use crate::search::{Hit, Query};
use crate::{Error, Result, Search};
use async_trait::async_trait;
pub(super) struct NotYet;
#[async_trait]
impl Search for NotYet {
    async fn search(&self, _query: &Query) -> Result<Vec<Hit>> {
        Err(Error::unavailable("there is no index"))
    }
}
