//! A stretch of network between a client and a server, in which things go wrong on demand.

mod relay;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::relay::relay;
use crate::ports::Port;
use crate::wait::look_for;

/// The thread of the proxy has nothing else to do.
const SWITCHED_WITHIN: Duration = Duration::from_secs(10);

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    ToServer,
    ToClient,
}

/// What happens to the bytes of one direction, on all connections, open and new.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Flow {
    /// They arrive.
    #[default]
    Through,
    /// They arrive so much later; the order is kept.
    Delayed(Duration),
    /// They do not arrive while this lasts, and arrive when it ends, as after a network was parted. About a megabyte is taken
    /// meanwhile, then the sender has to wait. Ends of connections do not arrive either.
    Held,
    /// They are taken and thrown away. A connection that lost bytes is reset when this ends.
    Swallowed,
    /// So many arrive on each connection, counted from the switch on; then the connection is closed.
    CutAfter(u64),
}

/// What the connections are told.
#[derive(Debug, Clone, Copy, Default)]
struct Faults {
    to_server: Switch,
    to_client: Switch,
    refusing: bool,
    /// How many times all connections were closed, and reset.
    cuts: u64,
    resets: u64,
    ended: bool,
}

/// A flow, and how often it was switched: a count of bytes begins anew with each time.
#[derive(Debug, Clone, Copy, Default)]
struct Switch {
    flow: Flow,
    times: u64,
}

impl Faults {
    fn switch(&mut self, direction: Direction) -> &mut Switch {
        match direction {
            Direction::ToServer => &mut self.to_server,
            Direction::ToClient => &mut self.to_client,
        }
    }

    fn set(&mut self, direction: Direction, flow: Flow) {
        let switch = self.switch(direction);
        *switch = Switch { flow, times: switch.times + 1 };
    }
}

#[derive(Debug, Default)]
struct Counters {
    listening: AtomicBool,
    accepted: AtomicU64,
    open: AtomicU64,
    to_server: AtomicU64,
    to_client: AtomicU64,
    swallowed: AtomicU64,
}

impl Counters {
    fn bytes(&self, direction: Direction) -> &AtomicU64 {
        match direction {
            Direction::ToServer => &self.to_server,
            Direction::ToClient => &self.to_client,
        }
    }
}

/// A TCP proxy on a port of its own. It runs on a thread of its own, so that it goes on whatever the test and its runtime do.
/// Every switch holds for all bytes that are sent after the call. Dropping it closes everything.
#[derive(Debug)]
pub struct FaultProxy {
    port: Port,
    faults: watch::Sender<Faults>,
    counters: Arc<Counters>,
    thread: Option<JoinHandle<()>>,
}

impl FaultProxy {
    /// Starts one in front of 127.0.0.1:`target_port`; the server need not be up.
    pub fn start(target_port: u16) -> Self {
        let port = Port::free();
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, target_port));
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port.number));
        let (faults, told) = watch::channel(Faults::default());
        let counters = Arc::new(Counters::default());
        let thread = std::thread::Builder::new()
            .name("fault-proxy".to_owned())
            .spawn({
                let counters = Arc::clone(&counters);
                move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .expect("a runtime can be made");
                    runtime.block_on(serve(listen, target, told, counters));
                }
            })
            .expect("a thread can be started");
        let proxy = Self { port, faults, counters, thread: Some(thread) };
        proxy.wait_until_listening(true);
        proxy
    }

    /// Where clients connect to: 127.0.0.1:port.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port()))
    }

    pub fn port(&self) -> u16 {
        self.port.number
    }

    /// `url` of the server, with our port in place of the server's.
    pub fn url_of(&self, url: &str, server_port: u16) -> String {
        url.replace(&format!("127.0.0.1:{server_port}"), &format!("127.0.0.1:{}", self.port()))
    }

    /// Switches one direction. A direction alone that is `Held` or `Swallowed` makes half-open connections.
    pub fn set(&self, direction: Direction, flow: Flow) {
        self.faults.send_modify(|faults| faults.set(direction, flow));
    }

    /// Switches both directions.
    pub fn set_both(&self, flow: Flow) {
        self.faults.send_modify(|faults| {
            faults.set(Direction::ToServer, flow);
            faults.set(Direction::ToClient, flow);
        });
    }

    /// Closes all open connections.
    pub fn cut(&self) {
        self.faults.send_modify(|faults| faults.cuts += 1);
    }

    /// Ends all open connections by a reset.
    pub fn reset(&self) {
        self.faults.send_modify(|faults| faults.resets += 1);
    }

    /// Refuses new connections; open ones stay.
    pub fn refuse(&self) {
        self.faults.send_modify(|faults| faults.refusing = true);
        self.wait_until_listening(false);
    }

    /// Takes new connections again and lets everything through.
    pub fn heal(&self) {
        self.set_both(Flow::Through);
        self.faults.send_modify(|faults| faults.refusing = false);
        self.wait_until_listening(true);
    }

    /// Since the start.
    pub fn connections_accepted(&self) -> u64 {
        self.counters.accepted.load(Ordering::Relaxed)
    }

    pub fn connections_open(&self) -> u64 {
        self.counters.open.load(Ordering::Relaxed)
    }

    /// Delivered since the start.
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.counters.bytes(direction).load(Ordering::Relaxed)
    }

    /// Taken and thrown away since the start, in both directions.
    pub fn bytes_swallowed(&self) -> u64 {
        self.counters.swallowed.load(Ordering::Relaxed)
    }

    fn wait_until_listening(&self, listening: bool) {
        look_for(SWITCHED_WITHIN, || {
            (self.counters.listening.load(Ordering::Acquire) == listening).then_some(())
        })
        .unwrap_or_else(|| panic!("the proxy on port {} did not switch", self.port()));
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.faults.send_modify(|faults| faults.ended = true);
        if let Some(thread) = self.thread.take() {
            // A panic of the proxy was printed, and what it broke has failed in the test.
            drop(thread.join());
        }
    }
}

async fn serve(
    listen: SocketAddr,
    target: SocketAddr,
    told: watch::Receiver<Faults>,
    counters: Arc<Counters>,
) {
    let mut faults = told.clone();
    let mut relays = JoinSet::new();
    while !faults.borrow_and_update().ended {
        if faults.borrow().refusing {
            counters.listening.store(false, Ordering::Release);
            if faults.changed().await.is_err() {
                return;
            }
            continue;
        }
        let listener = TcpListener::bind(listen)
            .await
            .unwrap_or_else(|error| panic!("the proxy cannot listen on {listen}: {error}"));
        counters.listening.store(true, Ordering::Release);
        loop {
            tokio::select! {
                biased;
                changed = faults.changed() => {
                    let now = *faults.borrow_and_update();
                    if changed.is_err() || now.refusing || now.ended {
                        break;
                    }
                }
                Some(_) = relays.join_next() => {}
                accepted = listener.accept() => {
                    // What goes wrong here went wrong for that one client, which sees it.
                    let Ok((client, _)) = accepted else { continue };
                    counters.accepted.fetch_add(1, Ordering::Relaxed);
                    counters.open.fetch_add(1, Ordering::Relaxed);
                    let (told, counters) = (told.clone(), Arc::clone(&counters));
                    relays.spawn(async move {
                        relay(client, target, told, &counters).await;
                        counters.open.fetch_sub(1, Ordering::Relaxed);
                    });
                }
            }
        }
    }
}
