//! Whose the other end of a TCP connection on this machine is: the user who made that socket. Linux only.
//!
//! sock_diag(7) answers for one connection in microseconds, however many there are. Where it is closed (a sandbox without
//! netlink sockets, a kernel without tcp_diag) the tables of proc(5) tell the same; they are walked whole, which takes
//! milliseconds (5 on an idle machine with a large hash, 64 with 5 000 connections), so they come second.
//!
//! A socket whose program has closed it belongs to nobody, and is shown as root's, inode 0. Nobody comes in with it:
//! else whoever sends and leaves at once would pass as root.

use std::net::{Ipv4Addr, SocketAddr};

/// A way to tell owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Diag,
    Tables,
}

impl Way {
    /// The first way that says of a connection whose maker is known that he made it. The proof is in the trying: some
    /// systems have tables that are always empty.
    pub fn that_works(local: SocketAddr, remote: SocketAddr, maker: u32) -> Option<Way> {
        [Way::Diag, Way::Tables].into_iter().find(|way| way.owner(local, remote) == Some(maker))
    }

    /// Who made the socket that has these addresses, as itself sees them; `None` if there is none, or nobody's.
    pub fn owner(self, local: SocketAddr, remote: SocketAddr) -> Option<u32> {
        self.find(local, remote).filter(|socket| socket.state != LISTEN && socket.inode != 0).map(|socket| socket.user)
    }

    fn find(self, local: SocketAddr, remote: SocketAddr) -> Option<Socket> {
        match self {
            Way::Diag => platform::ask_diag(local, remote),
            Way::Tables => platform::search_tables(local, remote),
        }
    }
}

/// Who listens at an address; `None` if nobody does, or it cannot be told.
pub fn listener(address: SocketAddr) -> Option<u32> {
    let nobody = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let at_all = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
    let search = || [address, at_all].into_iter().find_map(|address| Way::Tables.find(address, nobody));
    let found = Way::Diag.find(address, nobody).or_else(search);
    found.filter(|socket| socket.state == LISTEN && socket.inode != 0).map(|socket| socket.user)
}

/// TCP_LISTEN of the kernel.
const LISTEN: u8 = 10;

/// What the system says of a socket.
#[derive(Debug, PartialEq)]
struct Socket {
    state: u8,
    user: u32,
    inode: u64,
}

#[cfg(target_os = "linux")]
mod platform {
    use super::*;
    use crate::sys;
    use std::fs::File;
    use std::io::{BufRead, BufReader, Read};
    use std::net::{IpAddr, Ipv6Addr};

    const AF_INET: u8 = 2;
    const TCP: u8 = 6;
    const BY_FAMILY: u16 = 20;
    /// linux/netlink.h: the header of a message, 16 bytes; a request.
    const HEADER: usize = 16;
    const REQUEST: u16 = 1;

    /// `struct inet_diag_req_v2` behind a netlink header (linux/inet_diag.h).
    pub fn question(local: (Ipv4Addr, u16), remote: (Ipv4Addr, u16)) -> Vec<u8> {
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

    /// `struct inet_diag_msg` behind a netlink header; `None` for an error, and for another socket than was asked for.
    pub fn understand(answer: &[u8], asked: &[u8]) -> Option<Socket> {
        let ports = |message: &[u8], at: usize| message.get(at..at + 4).map(<[u8]>::to_vec);
        let number = |at: usize| Some(u32::from_ne_bytes(answer.get(at..at + 4)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
        let state = *answer.get(HEADER + 1)?;
        let is_it = ports(answer, HEADER + 4) == ports(asked, HEADER + 8) || state == LISTEN;
        let socket = Socket { state, user: number(HEADER + 64)?, inode: number(HEADER + 68)?.into() };
        (kind == BY_FAMILY && is_it).then_some(socket)
    }

    fn v4(address: SocketAddr) -> Option<(Ipv4Addr, u16)> {
        match address.ip().to_canonical() {
            IpAddr::V4(ip) => Some((ip, address.port())),
            IpAddr::V6(_) => None,
        }
    }

    pub fn ask_diag(local: SocketAddr, remote: SocketAddr) -> Option<Socket> {
        let question = question(v4(local)?, v4(remote)?);
        let mut answer = [0; 512];
        let length = sys::ask_sock_diag(&question, &mut answer).ok()?;
        understand(&answer[..length], &question)
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
    pub fn search_tables(local: SocketAddr, remote: SocketAddr) -> Option<Socket> {
        let (local, remote) = (v4(local)?, v4(remote)?);
        let mapped = |ip: Ipv4Addr| if ip.is_unspecified() { Ipv6Addr::UNSPECIFIED } else { ip.to_ipv6_mapped() };
        let old = (column(local.0.into(), local.1), column(remote.0.into(), remote.1));
        let new = (column(mapped(local.0).into(), local.1), column(mapped(remote.0).into(), remote.1));
        // Never whole in memory: there may be hundreds of thousands of lines. Those who listen come first, and the kernel
        // looks no further than it has room to write.
        let room = if remote.1 == 0 { LINE } else { 32 << 10 };
        let search = |table: &str, (local, remote): &(String, String)| {
            find_line(BufReader::with_capacity(room, File::open(table).ok()?), local, remote)
        };
        search("/proc/net/tcp", &old).or_else(|| search("/proc/net/tcp6", &new))
    }

    /// A line of /proc/net/tcp, in bytes.
    const LINE: usize = 150;
    /// Longer lines are none of a table.
    const LINE_MAX: u64 = 1024;

    pub fn find_line(mut table: impl BufRead, local: &str, remote: &str) -> Option<Socket> {
        let seeks_listener = remote.ends_with(":0000");
        let mut line = String::new();
        while table.by_ref().take(LINE_MAX).read_line(&mut line).ok()? > 0 {
            let fields: Vec<&str> = line.split_ascii_whitespace().take(10).collect();
            if let [_, own, other, state, _, _, _, user, _, inode] = fields[..]
                && own != "local_address"
            {
                let state = u8::from_str_radix(state, 16).ok()?;
                if own == local && other == remote {
                    return Some(Socket { state, user: user.parse().ok()?, inode: inode.parse().ok()? });
                }
                if seeks_listener && state != LISTEN {
                    return None;
                }
            }
            line.clear();
        }
        None
    }
}

#[cfg(not(target_os = "linux"))]
mod platform {
    use super::*;

    pub fn ask_diag(_: SocketAddr, _: SocketAddr) -> Option<Socket> {
        None
    }
    pub fn search_tables(_: SocketAddr, _: SocketAddr) -> Option<Socket> {
        None
    }
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys;
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
            assert_eq!(WAYS.map(|way| way.owner(local, address)), [Some(sys::own_user()); 2], "{to}");
        }
        assert_eq!(listener(address), Some(sys::own_user()));
        assert_eq!(Way::Tables.find(address, SocketAddr::from(([0; 4], 0))).unwrap().state, LISTEN);
    }

    #[test]
    fn a_socket_that_was_closed_is_nobodys() {
        let (listener, address) = listen();
        let client = TcpStream::connect(address).unwrap();
        let local = client.local_addr().unwrap();
        let served = listener.accept().unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(WAYS.map(|way| way.owner(local, address)), [Some(sys::own_user()); 2], "closed on one side only");
        drop(client);
        assert_eq!(WAYS.map(|way| way.owner(local, address)), [None; 2]);
        drop(served);
    }

    #[test]
    fn what_is_not_there_has_no_owner() {
        let (listener, address) = listen();
        let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        assert_eq!(WAYS.map(|way| way.owner(nobody, address)), [None; 2]);
        // Somebody who listens is not somebody who is connected.
        assert_eq!(WAYS.map(|way| way.owner(address, nobody)), [None; 2]);
        assert_eq!(Way::that_works(nobody, address, sys::own_user()), None);
        drop(listener);
        // Somebody else may take such a port at once, but not all of them.
        let is_nobodys = || {
            let (_, address) = listen();
            super::listener(address).is_none()
        };
        assert!((0..20).any(|_| is_nobodys()));
    }

    #[test]
    fn tables_of_any_length_are_read_line_by_line() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
        let line =
            "   3: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000 00000000  1001        0 4711 1 0\n";
        let find = |text: &str| platform::find_line(text.as_bytes(), "0100007F:1F90", "0100007F:D431");
        assert_eq!(find(&format!("{head}{line}")), Some(Socket { state: 1, user: 1001, inode: 4711 }));
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
