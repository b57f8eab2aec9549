//! Other lock services, installed and run only when asked for.

mod etcd;
mod postgres;
mod redis;
mod server;

use crate::goal::Setting;
use crate::goal::programs::{CLIENTS, KEYS};
use crate::rounds::{Contender, Failure};
use crate::service::{Locker, Seat};
use server::Server;

/// A lock service beside us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Peer {
    /// Redis without persistence: `SET NX PX`, and a script that deletes one's own key.
    Redis,
    /// PostgreSQL's advisory locks, prepared statements.
    Postgres,
    /// etcd with one node on disk: a transaction that creates the key, a delete.
    Etcd,
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Peer::Redis => "Redis",
            Peer::Postgres => "PostgreSQL",
            Peer::Etcd => "etcd",
        }
    }

    /// How a ratio to it is called in the report.
    pub(crate) fn times(self) -> &'static str {
        match self {
            Peer::Redis => "times_redis",
            Peer::Postgres => "times_postgresql",
            Peer::Etcd => "times_etcd",
        }
    }

    fn start(self) -> Result<Server, Failure> {
        match self {
            Peer::Redis => redis::start(),
            Peer::Postgres => postgres::start(),
            Peer::Etcd => etcd::start(),
        }
    }

    fn connect(self, port: u16) -> Result<Box<dyn Locker>, Failure> {
        Ok(match self {
            Peer::Redis => Box::new(redis::Client::connect(port)?),
            Peer::Postgres => Box::new(postgres::Client::connect(port)?),
            Peer::Etcd => Box::new(etcd::Client::connect(port)?),
        })
    }
}

/// Peers that run, with eight clients each.
pub(crate) struct Peers {
    list: Vec<Peer>,
    seats: Vec<Vec<Seat>>,
    _servers: Vec<Server>,
}

impl Peers {
    /// Starts the wanted peers, or none if nobody asked for any.
    pub(crate) fn start(setting: &Setting, wanted: &[Peer]) -> Result<Peers, Failure> {
        let mut peers = Peers { list: Vec::new(), seats: Vec::new(), _servers: Vec::new() };
        for peer in wanted.iter().filter(|_| setting.peers) {
            let fail = |why| format!("{}: {why}", peer.name());
            let server = peer.start().map_err(fail)?;
            let seat = |client: usize| {
                let keys = (0..KEYS).map(|n| format!("bench/{client}/{n}")).collect();
                // Their clients go where the scheduler puts them, and so does their server.
                Ok(Seat { locker: peer.connect(server.port)?, cpu: None, node: client, keys })
            };
            peers.seats.push((0..CLIENTS).map(seat).collect::<Result<_, Failure>>().map_err(fail)?);
            peers.list.push(*peer);
            peers._servers.push(server);
        }
        Ok(peers)
    }

    /// Who runs, in the order of the contenders.
    pub(crate) fn list(&self) -> Vec<Peer> {
        self.list.clone()
    }

    /// Each of them doing the same work.
    pub(crate) fn contenders<'a>(
        &'a mut self,
        work: impl Fn(&mut [Seat]) -> Result<Vec<f64>, Failure> + Copy + 'a,
    ) -> Vec<Contender<'a>> {
        let both = self.list.iter().zip(&mut self.seats);
        both.map(|(peer, seats)| Contender::new(peer.name(), move || work(seats))).collect()
    }
}
