//! The record against the books, when all is quiet.

use std::collections::BTreeSet;

use flowmonkey_core::execution::state::CancelSource;
use flowmonkey_core::execution::{Phase, replay};
use flowmonkey_engine::store::MemoryRows;

use super::Books;
use super::execution::difference;

impl Books {
    /// What the record holds is what was committed, no more and no less.
    pub fn audit(&mut self, rows: &MemoryRows) {
        let mut found = Vec::new();
        for (id, book) in &self.executions {
            let Some(stored) = rows.executions.get(id) else {
                found.push(("starts", format!("{id} was stored and is gone")));
                continue;
            };
            if *stored != book.state {
                found.push((
                    "state",
                    format!("{id}, stored and committed: {}", difference(stored, &book.state)),
                ));
            }
            let history: Vec<_> = rows.history.get(id).into_iter().flatten().flatten().cloned().collect();
            if history != book.history {
                found
                    .push(("history", format!("{id}: the stored history is not the one that was committed")));
            }
            let replayed = replay(&history).map(|state| (state.phase, state.context, state.activity));
            let state = (stored.phase.clone(), stored.context.clone(), stored.activity.clone());
            if replayed.as_ref() != Some(&state) {
                found.push(("replay", format!("{id}: the stored history does not give the stored state")));
            }
        }
        for id in rows.executions.keys() {
            if !self.executions.contains_key(id) {
                found.push(("starts", format!("{id} is stored and nobody committed it")));
            }
        }
        let mut seen = BTreeSet::new();
        for (table, row) in &rows.table_rows {
            let name = format!("{}/{}", table.id, row.id);
            if !self.rows.contains(&name) || !seen.insert(name.clone()) {
                found.push(("rows", format!("row {name} is there twice, or from nowhere")));
            }
        }
        if seen.len() < self.rows.len() {
            found.push(("rows", "rows that were committed are missing".into()));
        }
        for (checker, what) in found {
            self.violate(checker, what);
        }
    }

    /// After healing: everything has ended, and what was cancelled is cancelled.
    pub fn audit_ends(&mut self) {
        let mut found = Vec::new();
        for (id, book) in &self.executions {
            if !book.state.is_terminal() {
                let reason = book.state.waiting_reason();
                let status = book.state.status();
                found.push((
                    "progress",
                    format!("{id} has not ended: {status:?}, {reason:?}, {:?}", book.state),
                ));
            }
            let is_cancelled = matches!(&book.state.phase, Phase::Cancelled { cancellation }
                if cancellation.source == CancelSource::User);
            if self.cancelled.contains(id) && !is_cancelled && book.state.is_terminal() {
                let what = format!("{id} ended {:?} though its cancellation was accepted", book.state.phase);
                found.push(("cancel", what));
            }
        }
        for (checker, what) in found {
            self.violate(checker, what);
        }
    }

    /// How many executions have ended.
    #[must_use]
    pub fn ended(&self) -> usize {
        self.executions.values().filter(|book| book.state.is_terminal()).count()
    }
}
