//! The HTTP API of an engine: JSON over HTTP/1.1, errors as `application/problem+json`.
//!
//! Architecture invariant: nothing is decided here. Each route reads a request, asks the engine, and shows the answer;
//! every error goes out through [`problem`].

mod access;
mod cloud_events;
mod deletion;
mod events;
mod executions;
mod explain;
mod failed_tasks;
mod fields;
mod flows;
mod guard;
mod jobs;
mod metrics;
mod openapi;
mod operations;
mod pauses;
mod plumbing;
mod problem;
mod progress;
mod request;
mod start;
mod tables;
mod tasks;
mod verbs;
mod versions;
mod wait;
mod webhooks;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::engine::Engine;

pub use openapi::openapi;
pub use problem::ErrorClass;
use problem::Problem;

/// Bytes of a request's body: starts, signals, answers.
pub const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of the body of a flow.
pub const FLOW_BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Longest time that a request may wait for the end of an execution.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// Requests that may wait for the end of an execution at the same time.
pub const WAITS_MAX: usize = 1024;
/// How long open requests may take to end after the shutdown began.
pub const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Settings of the API.
#[derive(Clone, Debug, Default)]
pub struct ApiOptions {
    /// Names that requests may use in `Host` beside those of the loopback interface: a host name, or a host name with a
    /// port. `*` stands for any name, for servers whose names are checked by a proxy before them. Default: none.
    pub allowed_hosts: Vec<String>,
    /// Ends waiting requests early, so that a shutdown is not held up by them. Give the token that [`serve`] gets.
    pub shutdown: CancellationToken,
    /// Runs what changes something, so that it goes on when its client hangs up. Wait for it before the engine is closed.
    pub work: TaskTracker,
}

/// What the routes share.
#[derive(Clone)]
struct Api {
    engine: Arc<Engine>,
    waits: Arc<Semaphore>,
    large_answers: Arc<Semaphore>,
    shutdown: CancellationToken,
    work: TaskTracker,
}

/// All routes over `engine`.
pub fn router(engine: Arc<Engine>, options: ApiOptions) -> Router {
    let api = Api {
        engine,
        waits: Arc::new(Semaphore::new(WAITS_MAX)),
        large_answers: Arc::new(Semaphore::new(plumbing::large::LARGE_ANSWERS_MAX)),
        shutdown: options.shutdown,
        work: options.work,
    };
    let guard = guard::Guard::new(&options.allowed_hosts, api.engine.clone());
    let flows = Router::new()
        .route("/v1/flows", get(flows::list).post(flows::publish))
        .route("/v1/flows:validate", post(flows::validate))
        .layer(DefaultBodyLimit::max(FLOW_BODY_BYTES_MAX));
    Router::new()
        .route("/v1/flows/{id}", get(flows::get).post(versions::verb))
        .route("/v1/flows/{id}/versions", get(versions::versions))
        .route("/v1/flows/{id}/executions", post(start::of_flow))
        .route("/v1/executions", get(executions::list).post(start::start))
        .route("/v1/executions/{target}", get(executions::get).post(verbs::verb).delete(deletion::delete))
        .route("/v1/executions/{id}/tasks", get(tasks::of_execution))
        .route("/v1/tasks/{id}", get(tasks::get))
        .route("/v1/executions/{id}/history", get(executions::history))
        .route("/v1/executions/{id}/children", get(executions::children))
        .route("/v1/executions/{id}/context", get(executions::context))
        .route("/v1/executions/{id}/progress", get(progress::history))
        .route("/v1/executions/{id}/logs", get(progress::logs))
        .route("/v1/resume/{token}", post(verbs::resume))
        .route("/v1/jobs", get(jobs::list))
        .route("/v1/events", get(events::list).post(events::publish))
        .route("/v1/executions/{id}/events", get(events::of_execution))
        .route("/v1/webhooks", get(webhooks::list).post(webhooks::create))
        .route(
            "/v1/webhooks/{target}",
            get(webhooks::get).post(webhooks::verb).patch(webhooks::change).delete(webhooks::delete),
        )
        .route("/v1/webhooks/{id}/deliveries", get(webhooks::deliveries))
        .route("/v1/webhooks/{id}/deliveries/{target}", post(webhooks::redeliver))
        .route("/v1/queues", get(operations::queues))
        .route("/v1/queues/{target}", post(pauses::pool_verb))
        .route("/v1/workers", get(operations::workers))
        .route("/v1/failed-tasks", get(failed_tasks::list))
        .route("/v1/failed-tasks/{target}", get(failed_tasks::get).post(failed_tasks::verb))
        .route("/v1/tables", get(tables::list))
        .route("/v1/tables/{id}", axum::routing::put(tables::define))
        .route("/v1/tables/{id}/rows", get(tables::rows))
        .route("/v1/openapi.json", get(openapi::show))
        .route("/v1/version", get(operations::version))
        .route("/metrics", get(metrics::metrics))
        .route("/livez", get(operations::livez))
        .route("/readyz", get(operations::readyz))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .merge(flows)
        .merge(
            plumbing::routes()
                .layer(middleware::map_response_with_state(api.clone(), plumbing::count_refused)),
        )
        .fallback(problem::no_such_route)
        .method_not_allowed_fallback(problem::no_such_method)
        .layer(middleware::from_fn_with_state(guard, guard::guard))
        .with_state(api)
}

impl Api {
    /// Runs what changes something to its end, even when the client hangs up: between a commit and what follows from it, a
    /// request that is dropped leaves the rest to the chores, which find it late.
    async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Problem> {
        self.work.spawn(work).await.map_err(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only the end of the whole runtime ends it early.
            Err(_cancelled) => Problem::new(ErrorClass::Unavailable, "ENGINE_ENDING", "the engine is ending"),
        })
    }
}

/// Serves `router` on `listener` until `shutdown`; open requests get [`DRAIN_MAX`] to end.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) -> io::Result<()> {
    let drained = {
        let shutdown = shutdown.clone();
        async move {
            shutdown.cancelled().await;
            tokio::time::sleep(DRAIN_MAX).await;
        }
    };
    let serving = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned());
    tokio::select! {
        result = serving.into_future() => result,
        () = drained => {
            tracing::warn!("requests were still open when the time to end them was over");
            Ok(())
        }
    }
}
