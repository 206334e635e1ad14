//! A connection of its own, beside those of a store.

use sqlx::{ConnectOptions, PgConnection};

use super::{PostgresOptions, connect, error};
use crate::store::StoreError;

/// Connects. Gives the connection and the name of the database in errors.
pub(in crate::store) async fn apart(options: &PostgresOptions) -> Result<(PgConnection, String), StoreError> {
    let driver = options.driver()?.disable_statement_logging();
    let place = connect::place(&driver);
    let connection = connect::reach(&driver, &place, options.patience).await?;
    Ok((connection, place))
}

/// What the database at `place` says, in the words of the record.
pub(in crate::store) fn failed(place: &str, error: sqlx::Error) -> StoreError {
    error::classify(place, error)
}
