//! Networks that fail between any two parts.

use std::fs;
use std::time::{Duration, Instant};

use flowmonkey_test_support::{Direction, FaultProxy, Flow};

use super::load::{Load, progress};
use crate::system::{Options, Routes, System};

/// How long a fault lasts. Longer than heartbeats, shorter than a lease.
const FAULT_LASTS: Duration = Duration::from_millis(1_200);
/// One way, on a slow network.
const LATENCY: Duration = Duration::from_millis(150);
/// Tasks that are begun after a fault, before the next.
const BETWEEN: usize = 10;
/// Part of a processor that a process may use while it cannot reach something, in percent.
const IDLE_PERCENT_MAX: u64 = 60;
/// Linux counts the time of processes in hundredths of seconds.
const TICKS_PER_SECOND: u64 = 100;

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Cut,
    Reset,
    Refused,
    BlackHole,
    Latency,
    /// What is sent to the server arrives; nothing comes back.
    HalfOpen,
    /// Nothing arrives, then all of it does.
    Parted,
}

const FAULTS: [Fault; 7] = [
    Fault::Cut,
    Fault::Reset,
    Fault::Refused,
    Fault::BlackHole,
    Fault::Latency,
    Fault::HalfOpen,
    Fault::Parted,
];

impl Fault {
    fn begin(self, proxy: &FaultProxy) {
        match self {
            Self::Cut => proxy.cut(),
            Self::Reset => proxy.reset(),
            Self::Refused => {
                proxy.refuse();
                proxy.cut();
            }
            Self::BlackHole => proxy.set_both(Flow::Swallowed),
            Self::Latency => proxy.set_both(Flow::Delayed(LATENCY)),
            Self::HalfOpen => proxy.set(Direction::ToClient, Flow::Swallowed),
            Self::Parted => proxy.set_both(Flow::Held),
        }
    }
}

/// The port of a URL.
pub(super) fn port_of(url: &str) -> u16 {
    let (_, rest) = url.split_once("127.0.0.1:").unwrap();
    rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

/// All faults of one network, one after the other.
async fn all_faults(load: &mut Load, system: &System, proxy: &FaultProxy) {
    load.during(system, async {
        for fault in FAULTS {
            progress(system, BETWEEN).await;
            let pids: Vec<u32> = system.engines.iter().chain(&system.workers).map(|one| one.pid()).collect();
            let (used, began) = (ticks(&pids), Instant::now());
            fault.begin(proxy);
            tokio::time::sleep(FAULT_LASTS).await;
            let (used, lasted) = (ticks(&pids) - used, began.elapsed());
            proxy.heal();
            let percent = used * 100_000 / TICKS_PER_SECOND / u64::try_from(lasted.as_millis()).unwrap();
            println!("{fault:?}: {percent} % of a processor");
            if matches!(fault, Fault::Refused) {
                let limit = IDLE_PERCENT_MAX * u64::try_from(pids.len()).unwrap();
                assert!(percent < limit, "{fault:?}: a busy loop used {percent} % of a processor");
            }
            progress(system, BETWEEN).await;
        }
    })
    .await;
}

/// Time that processes have used.
fn ticks(pids: &[u32]) -> u64 {
    let of = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let (_, rest) = stat.rsplit_once(") ").unwrap();
        // The 14th and 15th fields of proc(5); the rest begins with the third.
        let fields: Vec<&str> = rest.split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    pids.iter().map(of).sum()
}

/// A system without processes yet.
async fn empty() -> System {
    System::start(Options { engines: 0, workers: 0, ..Options::default() }).await
}

async fn fill(system: &mut System) {
    for _ in 0..2 {
        system.add_engine(&[]).await;
    }
    for _ in 0..2 {
        system.add_worker(&[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_between_engines_and_redis_may_fail() {
    let mut system = empty().await;
    let proxy = FaultProxy::start(system.redis.port());
    let url = proxy.url_of(&system.redis.url(), system.redis.port());
    system.options.routes = Routes { engines_redis: Some(url), ..Routes::default() };
    fill(&mut system).await;
    let mut load = Load::new(&system).await;
    all_faults(&mut load, &system, &proxy).await;
    load.check(&system).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_between_workers_and_redis_may_fail() {
    let mut system = empty().await;
    let proxy = FaultProxy::start(system.redis.port());
    let url = proxy.url_of(&system.redis.url(), system.redis.port());
    system.options.routes = Routes { workers_redis: Some(url), ..Routes::default() };
    fill(&mut system).await;
    let mut load = Load::new(&system).await;
    all_faults(&mut load, &system, &proxy).await;
    load.check(&system).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_between_engines_and_postgres_may_fail() {
    let mut system = empty().await;
    let direct = system.database_url();
    let proxy = FaultProxy::start(port_of(&direct));
    let url = proxy.url_of(&direct, port_of(&direct));
    system.options.routes = Routes { database: Some(url), ..Routes::default() };
    fill(&mut system).await;
    let mut load = Load::new(&system).await;
    all_faults(&mut load, &system, &proxy).await;
    let report = load.check(&system).await;
    assert_eq!(report.audit.redelivered, report.rounds, "nothing ran twice: queues and workers were whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_between_workers_and_engines_may_fail() {
    let mut system = empty().await;
    for _ in 0..2 {
        system.add_engine(&[]).await;
    }
    let proxy = FaultProxy::start(port_of(system.engines[0].url.as_ref().unwrap()));
    let url = format!("http://{}", proxy.address());
    system.options.routes = Routes { engines: Some(url), ..Routes::default() };
    for _ in 0..2 {
        system.add_worker(&[]).await;
    }
    let mut load = Load::new(&system).await;
    all_faults(&mut load, &system, &proxy).await;
    let report = load.check(&system).await;
    assert_eq!(report.audit.redelivered, report.rounds, "leases and results go through Redis");
}
