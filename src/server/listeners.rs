//! The HTTP servers of this process: one for the socket in the data directory, and one for the port.

use super::LAST_REQUESTS;
use super::data_dir::{HeldFiles, OwnedDataDir};
use super::gate::{Gate, TcpGate};
use super::routes::Routes;
use crate::discovery::PRODUCT;
use crate::http::server::Server;
use crate::http::service::Limits;
use crate::http::socket::Listener;
use crate::{procs, sys};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long answers that are on their way may take at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(3);

pub struct Listeners {
    held: HeldFiles,
    private: Server,
    tcp: Option<Server>,
    /// Of the private one.
    routes: Routes,
    limits: Limits,
}

impl Listeners {
    pub fn start(place: OwnedDataDir, tcp: Option<(Listener, TcpGate)>, routes: Routes) -> io::Result<Listeners> {
        let descriptors = sys::descriptor_limit().saturating_sub(procs::open_descriptors());
        let limits = Limits::within(descriptors / if tcp.is_some() { 2 } else { 1 });
        let (socket, held) = place.split();
        let private = serve(socket, &limits, routes.clone())?;
        let tcp = tcp.map(|(listener, gate)| {
            serve(listener, &limits, Routes { gate: Arc::new(Gate::Tcp(gate)), ..routes.clone() })
        });
        Ok(Listeners { held, private, tcp: tcp.transpose()?, routes, limits })
    }

    /// Serves a new socket, if ours was removed. True if that was so.
    pub fn restore_socket(&mut self) -> bool {
        let Some(socket) = self.held.restore() else { return false };
        let Ok(server) = serve(socket, &self.limits, self.routes.clone()) else {
            self.held.give_up_socket();
            return false;
        };
        std::mem::replace(&mut self.private, server).stop(Duration::ZERO);
        true
    }

    /// Makes a new `server.lock`, if ours was removed. True if that was so.
    pub fn restore_lock(&mut self) -> bool {
        self.held.restore_lock(&self.routes.server_info)
    }

    /// Lets a newer server's socket be found in the place of ours. What came before that is still answered.
    pub fn exchange(&mut self, successor: &str) -> io::Result<()> {
        self.held.exchange(successor)?;
        self.routes.is_replaced.store(true, Ordering::SeqCst);
        self.private.stop_accepting();
        // What has begun, such as a start, is not to fail because of us.
        self.private.wait_drained(LAST_REQUESTS);
        Ok(())
    }

    pub fn stop(&mut self) {
        let end = Instant::now() + LAST_ANSWERS;
        for server in self.tcp.iter_mut().chain([&mut self.private]) {
            server.stop(end.saturating_duration_since(Instant::now()));
        }
    }
}

fn serve(listener: Listener, limits: &Limits, routes: Routes) -> io::Result<Server> {
    let name = format!("{PRODUCT}{}", routes.server_info.version);
    Server::start(listener, limits.clone(), name, Box::new(routes))
}
