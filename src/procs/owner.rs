//! Which user made the other end of a TCP connection on this machine. Linux only.
//!
//! sock_diag(7) answers for one connection in microseconds, however many there are. Where it is closed (a sandbox without
//! netlink sockets, a kernel without tcp_diag) the tables of proc(5) tell the same; they are walked whole, which takes
//! milliseconds (5 on an idle machine with a large hash, 64 with 5 000 connections), so they come second.
//!
//! A socket that its program has closed has no owner: the kernel shows it as root's, with inode 0. It is not found here,
//! else a program that sends and closes at once would pass as root.

use crate::sys;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// A way to look an owner up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Diag,
    Tables,
}

impl Way {
    /// The first way that names `maker` as the owner of a connection that `maker` has made. It is tried and not
    /// assumed: some systems have tables that are always empty. `None`: this system does not tell. An error: the system
    /// had no resources for the lookup, so that nothing is known.
    pub fn that_works(local: SocketAddr, remote: SocketAddr, maker: u32) -> io::Result<Option<Way>> {
        if is_shared_number(maker) {
            return Ok(None);
        }
        for way in [Way::Diag, Way::Tables] {
            if way.owner(local, remote)? == Some(maker) {
                return Ok(Some(way));
            }
        }
        Ok(None)
    }

    /// The user who made the socket with these addresses, as itself sees them; `None` if there is no such socket, or its
    /// program has closed it. For errors see [`that_works`](Way::that_works).
    pub fn owner(self, local: SocketAddr, remote: SocketAddr) -> io::Result<Option<u32>> {
        let found = self.find(local, remote)?;
        Ok(found.filter(|socket| socket.inode != 0).map(|socket| socket.user))
    }

    fn find(self, local: SocketAddr, remote: SocketAddr) -> io::Result<Option<Socket>> {
        let (Some(local), Some(remote)) = (v4(local), v4(remote)) else { return Ok(None) };
        let found = match self {
            Way::Diag => platform::ask_diag(local, remote),
            Way::Tables => platform::search_tables(local, remote),
        };
        match found {
            Err(error) if sys::is_exhaustion(&error) => Err(error),
            found => Ok(found.ok().flatten()),
        }
    }
}

/// An IPv4 address and a port.
type Address = (Ipv4Addr, u16);

fn v4(address: SocketAddr) -> Option<Address> {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => Some((ip, address.port())),
        IpAddr::V6(_) => None,
    }
}

/// Whether the system shows other users under this number, too: the overflow user (user_namespaces(7)) stands for all
/// that a user namespace has no number for, and so for everyone where it is our own number.
pub fn is_shared_number(user: u32) -> bool {
    platform::is_shared_number(user)
}

/// Whether the system itself relays connections of other programs as root: WSL does so with those from Windows.
pub fn relays_as_root() -> bool {
    platform::relays_as_root()
}

/// What the system says of a socket.
#[derive(Debug, PartialEq)]
struct Socket {
    user: u32,
    inode: u64,
}

#[cfg(target_os = "linux")]
mod platform {
    use super::*;
    use std::fs::File;
    use std::io::{BufRead, BufReader, Read};

    const AF_INET: u8 = 2;
    const TCP: u8 = 6;
    const BY_FAMILY: u16 = 20;
    /// linux/netlink.h: the header of a message, 16 bytes; a request.
    const HEADER: usize = 16;
    const REQUEST: u16 = 1;

    /// `struct inet_diag_req_v2` after a netlink header (linux/inet_diag.h).
    pub fn question(local: Address, remote: Address) -> Vec<u8> {
        let mut body = vec![AF_INET, TCP, 0, 0];
        body.extend(u32::MAX.to_ne_bytes()); // any state
        body.extend(local.1.to_be_bytes());
        body.extend(remote.1.to_be_bytes());
        for address in [local.0, remote.0] {
            body.extend(address.octets());
            body.extend([0; 12]);
        }
        body.extend([0; 4]); // any interface
        body.extend([0xff; 8]); // any incarnation
        let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        message.extend(BY_FAMILY.to_ne_bytes());
        message.extend(REQUEST.to_ne_bytes());
        message.extend([0; 8]); // sequence number and sender: there is only one message
        message.extend(body);
        message
    }

    /// `struct inet_diag_msg` after a netlink header; `None` for an error, and for another socket than was asked for.
    pub fn understand(answer: &[u8], asked: &[u8]) -> Option<Socket> {
        let ports = |message: &[u8], at: usize| message.get(at..at + 4).map(<[u8]>::to_vec);
        let number = |at: usize| Some(u32::from_ne_bytes(answer.get(at..at + 4)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
        // Where there is no such connection the kernel answers with the listener, whose other port is 0.
        let is_it = ports(answer, HEADER + 4) == ports(asked, HEADER + 8);
        let socket = Socket { user: number(HEADER + 64)?, inode: number(HEADER + 68)?.into() };
        (kind == BY_FAMILY && is_it).then_some(socket)
    }

    pub fn ask_diag(local: Address, remote: Address) -> io::Result<Option<Socket>> {
        let question = question(local, remote);
        let mut answer = [0; 512];
        let length = sys::ask_sock_diag(&question, &mut answer)?;
        Ok(understand(&answer[..length], &question))
    }

    /// An address as the tables write it: words of four bytes in the order of the machine.
    fn column(ip: IpAddr, port: u16) -> String {
        let octets = match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let words = octets.chunks(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap_or_default()));
        words.map(|word| format!("{word:08X}")).collect::<String>() + &format!(":{port:04X}")
    }

    /// A client may have reached 127.0.0.1 by way of an IPv6 socket, which stands in the other table.
    pub fn search_tables(local: Address, remote: Address) -> io::Result<Option<Socket>> {
        let old = (column(local.0.into(), local.1), column(remote.0.into(), remote.1));
        let mapped = |ip: Ipv4Addr| ip.to_ipv6_mapped().into();
        let new = (column(mapped(local.0), local.1), column(mapped(remote.0), remote.1));
        for (table, (local, remote)) in [("/proc/net/tcp", old), ("/proc/net/tcp6", new)] {
            let file = match File::open(table) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue, // a machine without IPv6
                opened => opened?,
            };
            // Never whole in memory: there may be hundreds of thousands of lines.
            if let Some(found) = find_line(BufReader::with_capacity(32 << 10, file), &local, &remote)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    pub fn is_shared_number(user: u32) -> bool {
        const USUAL: u32 = 65534;
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let overflow = read("/proc/sys/kernel/overflowuid").trim().parse().unwrap_or(USUAL);
        // Where each number has its own meaning, as in the first user namespace, none stands for others.
        let has_all = || read("/proc/self/uid_map").split_ascii_whitespace().eq(["0", "0", "4294967295"]);
        user == overflow && !has_all()
    }

    pub fn relays_as_root() -> bool {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        release.to_ascii_lowercase().contains("microsoft")
    }

    /// Longer lines, in bytes, are none of a table.
    const LINE_MAX: u64 = 1024;

    pub fn find_line(mut table: impl BufRead, local: &str, remote: &str) -> io::Result<Option<Socket>> {
        let mut line = String::new();
        while table.by_ref().take(LINE_MAX).read_line(&mut line)? > 0 {
            let fields: Vec<&str> = line.split_ascii_whitespace().take(10).collect();
            if let [_, own, other, _, _, _, _, user, _, inode] = fields[..]
                && own == local
                && other == remote
            {
                let socket = user.parse().ok().zip(inode.parse().ok());
                return Ok(socket.map(|(user, inode)| Socket { user, inode }));
            }
            line.clear();
        }
        Ok(None)
    }
}

#[cfg(not(target_os = "linux"))]
mod platform {
    use super::*;

    pub fn ask_diag(_: Address, _: Address) -> io::Result<Option<Socket>> {
        Ok(None)
    }
    pub fn search_tables(_: Address, _: Address) -> io::Result<Option<Socket>> {
        Ok(None)
    }
    pub fn is_shared_number(_: u32) -> bool {
        false
    }
    pub fn relays_as_root() -> bool {
        false
    }
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    const WAYS: [Way; 2] = [Way::Diag, Way::Tables];

    fn listen() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    #[test]
    fn both_ways_name_the_same_owner() {
        let (_listener, address) = listen();
        let through_v6 = SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), address.port()));
        for to in [address, through_v6] {
            // A machine without IPv6 has no such sockets either.
            let Ok(client) = TcpStream::connect(to) else { continue };
            let local = client.local_addr().unwrap();
            assert_eq!(WAYS.map(|way| way.owner(local, address).unwrap()), [Some(sys::own_user()); 2], "{to}");
        }
    }

    #[test]
    fn a_socket_that_was_closed_is_nobodys() {
        let (listener, address) = listen();
        let client = TcpStream::connect(address).unwrap();
        let local = client.local_addr().unwrap();
        let served = listener.accept().unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(
            WAYS.map(|way| way.owner(local, address).unwrap()),
            [Some(sys::own_user()); 2],
            "closed on one side only"
        );
        drop(client);
        assert_eq!(WAYS.map(|way| way.owner(local, address).unwrap()), [None; 2]);
        drop(served);
    }

    #[test]
    fn what_is_not_there_has_no_owner() {
        let (listener, address) = listen();
        let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        assert_eq!(WAYS.map(|way| way.owner(nobody, address).unwrap()), [None; 2]);
        // A listening socket is not a connected one.
        assert_eq!(WAYS.map(|way| way.owner(address, nobody).unwrap()), [None; 2]);
        assert_eq!(Way::that_works(nobody, address, sys::own_user()).unwrap(), None);
        drop(listener);
    }

    #[test]
    fn tables_of_any_length_are_read_line_by_line() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
        let line =
            "   3: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000 00000000  1001        0 4711 1 0\n";
        let find = |text: &str| platform::find_line(text.as_bytes(), "0100007F:1F90", "0100007F:D431").ok().flatten();
        assert_eq!(find(&format!("{head}{line}")), Some(Socket { user: 1001, inode: 4711 }));
        let others = line.replace("1F90", "1F91").repeat(10_000);
        assert_eq!(find(&format!("{head}{others}{line}")).unwrap().user, 1001);
        for text in ["", head, "nonsense\n", "\u{0}\u{ff}", &"x ".repeat(5000)] {
            assert_eq!(find(text), None);
        }
    }

    #[test]
    fn answers_that_make_no_sense_are_no_answers() {
        let asked = platform::question((Ipv4Addr::LOCALHOST, 1), (Ipv4Addr::LOCALHOST, 2));
        assert_eq!(asked.len(), 72);
        for answer in [vec![], vec![0; 16], vec![0; 88], vec![255; 512]] {
            assert_eq!(platform::understand(&answer, &asked), None);
        }
    }
}
