//! A deterministic executor: what is under way moves one step at a time, and the seed says which moves next.
//!
//! The stores and queues of the simulation give way exactly at their seams, before and after each call. Dropping what is
//! under way at such a point is a crash at that point.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Polls of one operation after which it is taken to hang.
const POLLS_MAX: usize = 1_000_000;

/// Gives way once, so that others may move in between.
#[derive(Debug, Default)]
pub struct GiveWay(bool);

impl Future for GiveWay {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<()> {
        if self.0 {
            return Poll::Ready(());
        }
        self.0 = true;
        Poll::Pending
    }
}

/// Lets `future` do one step.
pub fn step<T>(future: Pin<&mut (dyn Future<Output = T> + Send)>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Runs `future` to its end. Nothing here ever waits for the outside world.
///
/// # Panics
/// When it does not end: it waits for something that nobody does.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = Box::pin(future);
    for _ in 0..POLLS_MAX {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return output;
        }
    }
    panic!("an operation waits for something outside the simulation");
}
