//! The database's clock.

use flowmonkey_plumbing::clock::Clock;

use super::{PostgresStore, sql};
use crate::store::StoreError;
use crate::store::rows;

/// Readings taken; the one with the shortest round trip counts.
const READINGS: usize = 3;

impl PostgresStore {
    /// Milliseconds that the database's clock is ahead of `clock` (less than 0: behind), good to half a round trip.
    ///
    /// # Errors
    /// As for every statement.
    pub async fn clock_offset(&self, clock: &dyn Clock) -> Result<i64, StoreError> {
        let mut best: Option<(i64, i64)> = None;
        for _ in 0..READINGS {
            let sent = clock.now_ms();
            let row = self.read_one(sqlx::query(sql::CLOCK_READ)).await?;
            let received = clock.now_ms();
            let row = row.ok_or_else(|| rows::corrupt("the database's clock", "it gives no time"))?;
            let there: i64 = rows::column(&row, 0, &"the database's clock")?;
            let trip = received.saturating_sub(sent);
            let offset = there.saturating_sub(sent.saturating_add(trip / 2));
            if best.is_none_or(|(shortest, _)| trip < shortest) {
                best = Some((trip, offset));
            }
        }
        Ok(best.map_or(0, |(_, offset)| offset))
    }
}
