//! Published events. A row that cannot be understood is left out, and those behind it take its place: were a page of such
//! rows an answer, it would look like the end of all.

use flowmonkey_core::time::Timestamp;
use sqlx::query;

use super::encode::{self, integer};
use super::{SqliteStore, Statement, sql};
use crate::store::model::PublishedEvent;
use crate::store::rows;
use crate::store::{StoreError, tenants};

/// Where a page begins: behind this instant and place.
#[derive(Clone, Copy)]
struct Behind {
    at: i64,
    sequence: i64,
}

impl SqliteStore {
    pub(super) async fn events_to_deliver(&self, max: usize) -> Result<Vec<PublishedEvent>, StoreError> {
        let page = |behind: Behind, wanted| {
            query(sql::EVENTS_UNDELIVERED).bind(behind.at).bind(behind.sequence).bind(wanted)
        };
        self.events(Behind { at: i64::MIN, sequence: i64::MIN }, max, page).await
    }

    pub(super) async fn events_named(
        &self,
        tenant: Option<&str>,
        name: &str,
        since: Timestamp,
        max: usize,
    ) -> Result<Vec<PublishedEvent>, StoreError> {
        let page = |behind: Behind, wanted| {
            let statement = query(sql::EVENTS_SINCE).bind(encode::text(name));
            let tenant = encode::text(tenants::column(tenant));
            statement.bind(behind.at).bind(behind.sequence).bind(wanted).bind(tenant)
        };
        self.events(Behind { at: since.as_millis(), sequence: i64::MIN }, max, page).await
    }

    /// Up to `max` events, a page of rows after another.
    async fn events(
        &self,
        mut behind: Behind,
        max: usize,
        page: impl Fn(Behind, i64) -> Statement,
    ) -> Result<Vec<PublishedEvent>, StoreError> {
        let mut events = Vec::new();
        loop {
            let wanted = max - events.len();
            let found = self.read(page(behind, integer(wanted as u64))).await?;
            events.extend(self.sound(&found, rows::event));
            let Some(last) = found.last().filter(|_| found.len() == wanted && events.len() < max) else {
                return Ok(events);
            };
            behind = Behind {
                at: rows::column(last, 4, &"fm_events")?,
                sequence: rows::column(last, 5, &"fm_events")?,
            };
        }
    }
}
