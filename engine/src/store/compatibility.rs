//! Which programs run on a schema that is newer than theirs.
//!
//! Migrations add: tables, columns that have a default, functions, indexes. What an older program reads and writes stays as
//! it was, so that engines can be replaced one by one. A migration that cannot do so raises the oldest version that may
//! still run, which the database says (`fm_schema.readable_from`).

use super::StoreError;

/// The version that was found, when a program of `own` may run on it.
///
/// # Errors
/// [`StoreError::Schema`] when it may not, or the database does not say who may.
pub(super) fn may_run(found: i64, own: i64, readable_from: Option<i64>) -> Result<i64, StoreError> {
    match readable_from {
        _ if found <= own => Ok(found),
        Some(oldest) if oldest <= own => Ok(found),
        Some(oldest) => Err(StoreError::Schema {
            found,
            needed: own,
            cure: format!(
                "it is for programs whose version is {oldest} or later: run the release of flowmonkey that wrote it, or a newer \
                 one"
            ),
        }),
        None => Err(StoreError::Schema {
            found,
            needed: own,
            cure: "run the release of flowmonkey that wrote it, or a newer one".into(),
        }),
    }
}

/// What a migration has that an older program may trip over; none: it only adds.
#[cfg(test)]
pub(super) fn takes_away(migration: &str) -> Option<String> {
    const WORDS: [&str; 10] = [
        "DROP TABLE",
        "DROP COLUMN",
        "DROP FUNCTION",
        "DROP VIEW",
        "DROP DEFAULT",
        "SET NOT NULL",
        "SET DATA TYPE",
        "RENAME",
        "TRUNCATE",
        "ADD CONSTRAINT",
    ];
    let code: Vec<&str> = migration.lines().map(|line| line.split("--").next().unwrap_or_default()).collect();
    let code = code.join(" ").to_ascii_uppercase();
    let words: Vec<&str> = code.split_whitespace().collect();
    // Noticing that others empty a table takes nothing away.
    let code = words.join(" ").replace("AFTER TRUNCATE ON", "");
    if let Some(word) = WORDS.iter().find(|word| code.contains(**word)) {
        return Some((*word).to_owned());
    }
    // A row that an older program writes has no value for it.
    let added =
        code.split("ADD COLUMN").skip(1).map(|rest| rest.split([',', ';']).next().unwrap_or_default());
    let mut demanding = added.filter(|column| column.contains("NOT NULL") && !column.contains("DEFAULT"));
    demanding.next().map(|column| format!("ADD COLUMN{column}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_runs_on_newer_schemas_that_say_so() {
        assert_eq!(may_run(9, 9, None).unwrap(), 9);
        assert_eq!(may_run(8, 9, Some(12)).unwrap(), 8);
        assert_eq!(may_run(11, 9, Some(9)).unwrap(), 11);
        for readable_from in [None, Some(10)] {
            let error = may_run(11, 9, readable_from).unwrap_err();
            let StoreError::Schema { found: 11, needed: 9, cure } = error else { panic!("{error}") };
            assert!(cure.contains("release"), "{cure}");
        }
    }

    #[test]
    fn what_takes_away_is_noticed() {
        for adds in [
            "CREATE TABLE a (b bigint NOT NULL);",
            "ALTER TABLE a ADD COLUMN b bigint NOT NULL DEFAULT 0, ADD COLUMN c text; -- DROP TABLE",
            "CREATE INDEX a_b ON a (b);",
            "CREATE TRIGGER b AFTER TRUNCATE ON a EXECUTE FUNCTION c();",
        ] {
            assert_eq!(takes_away(adds), None, "{adds}");
        }
        for takes in [
            "DROP\n TABLE a;",
            "TRUNCATE a;",
            "ALTER TABLE a RENAME TO b;",
            "alter table a add column b bigint default 1, add column c bigint not null;",
        ] {
            assert!(takes_away(takes).is_some(), "{takes}");
        }
    }
}
