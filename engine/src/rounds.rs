//! Work that callers share: what comes while a round runs waits for the next, which does it for all who wait. An idle system
//! does each at once; a busy one does many in one go.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Mutex as Turn;

/// Rounds of one kind of work, with what each caller brings (`I`) and the answer that all of a round share (`O`).
pub(crate) struct Rounds<I, O> {
    waiting: Mutex<Waiting<I>>,
    turn: Turn<Option<Last<O>>>,
}

struct Waiting<I> {
    brought: Vec<I>,
    /// Callers so far.
    tickets: u64,
}

/// The last round that was done.
struct Last<O> {
    /// The last caller before it began.
    covers: u64,
    answer: O,
}

impl<I, O> Default for Rounds<I, O> {
    fn default() -> Self {
        let waiting = Waiting { brought: Vec::new(), tickets: 0 };
        Self { waiting: Mutex::new(waiting), turn: Turn::new(None) }
    }
}

impl<I, O: Clone> Rounds<I, O> {
    /// The answer of a round that began after this call; `run` is used when nobody else has done it by then, and gets what
    /// all who wait have brought.
    ///
    /// # Errors
    /// That of `run`, to its caller alone: others run again, without what that round was given.
    pub(crate) async fn join<E>(
        &self,
        brings: I,
        run: impl AsyncFnOnce(Vec<I>) -> Result<O, E>,
    ) -> Result<O, E> {
        let ticket = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.brought.push(brings);
            waiting.tickets += 1;
            waiting.tickets
        };
        let mut turn = self.turn.lock().await;
        if let Some(Last { covers, answer }) = &*turn
            && *covers >= ticket
        {
            return Ok(answer.clone());
        }
        let (brought, covers) = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            (std::mem::take(&mut waiting.brought), waiting.tickets)
        };
        let answer = run(brought).await?;
        *turn = Some(Last { covers, answer: answer.clone() });
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;

    use tokio::sync::Notify;
    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn those_who_come_during_a_round_share_the_next() {
        let rounds: Arc<Rounds<u32, Vec<u32>>> = Arc::default();
        let (began, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let mut first = JoinSet::new();
        {
            let (rounds, began, go_on) = (rounds.clone(), began.clone(), go_on.clone());
            first.spawn(async move {
                let run = async |brought: Vec<u32>| {
                    began.notify_one();
                    go_on.notified().await;
                    Ok::<_, Infallible>(brought)
                };
                rounds.join(0, run).await.unwrap()
            });
        }
        began.notified().await;
        let mut others = JoinSet::new();
        for number in 1..10 {
            let rounds = rounds.clone();
            others.spawn(async move {
                rounds.join(number, async |brought: Vec<u32>| Ok::<_, Infallible>(brought)).await.unwrap()
            });
        }
        while rounds.waiting.lock().unwrap().tickets < 10 {
            tokio::task::yield_now().await;
        }
        go_on.notify_one();
        assert_eq!(first.join_all().await, [vec![0]]);
        let answers = others.join_all().await;
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
        let mut all = answers[0].clone();
        all.sort_unstable();
        assert_eq!(all, (1..10).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn who_fails_fails_alone() {
        let rounds: Rounds<(), u32> = Rounds::default();
        assert_eq!(rounds.join((), async |_: Vec<()>| Err::<u32, _>("no")).await, Err("no"));
        assert_eq!(rounds.join((), async |_: Vec<()>| Ok::<_, &str>(7)).await, Ok(7));
        // No round is shared with those who come after it began.
        assert_eq!(rounds.join((), async |_: Vec<()>| Ok::<_, &str>(8)).await, Ok(8));
    }
}
