//! Evaluates jq programs for a worker, over its standard input and output. Started and stopped by the worker.

fn main() -> std::process::ExitCode {
    flowmonkey_handlers::jq::serve()
}
