//! The HTTP API of an engine: JSON over HTTP/1.1, errors as `application/problem+json`.
//!
//! Architecture invariant: nothing is decided here. Each route reads a request, asks the engine, and shows the answer;
//! every error goes out through [`problem`].

mod access;
mod audit;
mod bulk;
mod cloud_events;
mod deletion;
mod docs;
mod events;
mod executions;
mod explain;
mod failed_tasks;
mod fields;
mod flows;
mod gate;
mod graphs;
mod guard;
mod handlers;
mod jobs;
mod keys;
mod live;
mod metrics;
mod openapi;
mod operations;
mod pauses;
mod plumbing;
mod problem;
mod progress;
mod rate;
mod request;
mod retention;
mod search;
mod serve;
mod start;
mod tables;
mod tasks;
mod verbs;
mod versions;
mod wait;
mod webhooks;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::{get, post};
use flowmonkey_core::execution::Execution;
use flowmonkey_core::ids::ExecutionId;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::engine::{Engine, EngineError};

use access::Access;
pub use gate::AccessOptions;
pub use live::{LIVE_CONNECTIONS_MAX, LiveOptions, PING_EVERY};
pub use openapi::openapi;
pub use problem::ErrorClass;
use problem::Problem;
pub use serve::{CONNECTIONS_MAX, DRAIN_MAX, HEAD_TIME_MAX, serve};

/// Bytes of a request's body: starts, signals, answers.
pub const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of the body of a flow.
pub const FLOW_BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Longest time that a request may wait for the end of an execution.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// Requests that may wait for the end of an execution at the same time.
pub const WAITS_MAX: usize = 1024;
/// How long the body of a request may take to arrive.
pub const BODY_TIME_MAX: Duration = Duration::from_secs(60);

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
    /// Who may ask. Default: everybody.
    pub access: AccessOptions,
    /// Connections that are told what happens.
    pub live: LiveOptions,
}

/// What the routes share.
#[derive(Clone)]
struct Api {
    engine: Arc<Engine>,
    waits: Arc<Semaphore>,
    large_answers: Arc<Semaphore>,
    live: Arc<live::Live>,
    shutdown: CancellationToken,
    work: TaskTracker,
}

/// All routes over `engine`.
pub fn router(engine: Arc<Engine>, options: ApiOptions) -> Router {
    let live = live::Live::new(engine.clone(), &options.live, options.shutdown.clone(), options.work.clone());
    let api = Api {
        engine,
        live: Arc::new(live),
        waits: Arc::new(Semaphore::new(WAITS_MAX)),
        large_answers: Arc::new(Semaphore::new(plumbing::large::LARGE_ANSWERS_MAX)),
        shutdown: options.shutdown,
        work: options.work,
    };
    let gate = gate::Gate::new(api.engine.clone(), options.access, api.work.clone());
    let guard = guard::Guard::new(&options.allowed_hosts, api.engine.clone(), gate, api.work.clone());
    let flows = Router::new()
        .route("/v1/flows", get(flows::list).post(flows::publish))
        .route("/v1/flows:validate", post(flows::validate))
        .layer(DefaultBodyLimit::max(FLOW_BODY_BYTES_MAX));
    Router::new()
        .route("/v1/flows/{id}", get(flows::get).post(versions::verb))
        .route("/v1/flows/{id}/versions", get(versions::versions))
        .route("/v1/flows/{id}/graph", get(graphs::graph))
        .route("/v1/flows/{id}/retention", get(retention::get).put(retention::set).delete(retention::lift))
        .route("/v1/flows/{id}/executions", post(start::of_flow))
        .route("/v1/executions", get(search::list).post(start::start))
        .route("/v1/executions:count", get(search::count))
        .route("/v1/executions/{target}", get(executions::get).post(verbs::verb).delete(deletion::delete))
        .route("/v1/executions/{id}/tasks", get(tasks::of_execution))
        .route("/v1/tasks/{id}", get(tasks::get))
        .route("/v1/executions/{id}/history", get(executions::history))
        .route("/v1/executions/{id}/children", get(executions::children))
        .route("/v1/executions/{id}/context", get(executions::context))
        .route("/v1/executions/{id}/progress", get(progress::history))
        .route("/v1/executions/{id}/logs", get(progress::logs))
        .route("/v1/executions/{id}/stream", get(live::of_execution))
        .route("/v1/stream", get(live::of_all))
        .route("/v1/ws", get(live::upgrade))
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
        .route("/v1/keys", get(keys::list).post(keys::create))
        .route("/v1/keys/{target}", post(keys::verb))
        .route("/v1/audit", get(audit::list))
        .route("/v1/operations", get(bulk::list).post(bulk::create))
        .route("/v1/operations/{target}", get(bulk::get).post(bulk::verb))
        .route("/v1/operations/{id}/items", get(bulk::items))
        .route("/v1/queues", get(operations::queues))
        .route("/v1/queues/{target}", post(pauses::pool_verb))
        .route("/v1/handlers", get(handlers::list))
        .route("/v1/workers", get(operations::workers))
        .route("/v1/workers/{target}", post(workers::verb))
        .route("/v1/failed-tasks", get(failed_tasks::list))
        .route("/v1/failed-tasks/{target}", get(failed_tasks::get).post(failed_tasks::verb))
        .route("/v1/tables", get(tables::list))
        .route("/v1/tables/{id}", axum::routing::put(tables::define))
        .route("/v1/tables/{id}/rows", get(tables::rows))
        .route("/v1/openapi.json", get(openapi::show))
        .route("/v1/asyncapi.yaml", get(docs::async_api))
        .route("/docs", get(docs::find))
        .route("/docs/", get(docs::page))
        .route("/docs/{file}", get(docs::file))
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

/// That the caller sees an execution.
fn seen<S>(access: &Access<S>, execution: &Execution) -> Result<(), Problem> {
    if access.visibility().sees(execution.identity.tenant_id.as_deref()) {
        return Ok(());
    }
    Err(EngineError::ExecutionNotFound(execution.id()).into())
}

impl Api {
    /// An execution that the caller sees.
    ///
    /// # Errors
    /// When it does not exist, or belongs to a tenant whose rows are not seen: the answer is the same.
    async fn execution<S>(&self, access: &Access<S>, id: ExecutionId) -> Result<Execution, Problem> {
        let execution = self.engine.execution(id).await?;
        seen(access, &execution)?;
        Ok(execution)
    }

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
