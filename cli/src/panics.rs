//! What a panic does. In a handler it is contained: the worker makes a failed attempt of it. Anywhere else the process
//! cannot be trusted any more and ends at once, with an exit code that nobody takes for success; the record is safe.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use async_trait::async_trait;
use flowmonkey_plumbing::manifest::Manifest;
use flowmonkey_worker::{Completion, Failure, Handler, Task};

/// What the shell sees after a panic.
const PANICKED: i32 = 101;

thread_local! {
    static IN_HANDLER: Cell<bool> = const { Cell::new(false) };
}

/// Makes every panic outside of handlers end the process.
pub(crate) fn install() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        if !IN_HANDLER.get() {
            eprintln!(
                "flowmonkey: this is a bug in flowmonkey; it stops here. Whatever was stored is safe and goes on \
                 when it is started again."
            );
            std::process::exit(PANICKED);
        }
    }));
}

/// A handler whose panics are contained.
pub(crate) struct Contained(pub(crate) Arc<dyn Handler>);

/// Notes that a handler runs, also when it panics.
struct Running;

impl Running {
    fn begin() -> Self {
        IN_HANDLER.set(true);
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        IN_HANDLER.set(false);
    }
}

#[async_trait]
impl Handler for Contained {
    fn manifest(&self) -> &Manifest {
        self.0.manifest()
    }

    async fn run(&self, task: &Task) -> Result<Completion, Failure> {
        let mut run = pin!(self.0.run(task));
        poll_fn(|context| {
            let _running = Running::begin();
            run.as_mut().poll(context)
        })
        .await
    }
}
