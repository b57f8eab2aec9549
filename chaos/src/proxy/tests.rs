use super::*;

/// Three nodes that only send and listen.
struct Hall {
    nodes: Vec<UdpSocket>,
    proxy: Proxy,
}

fn hall() -> Hall {
    let nodes: Vec<UdpSocket> = (0..3).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    for node in &nodes {
        node.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
    }
    let real: Vec<SocketAddr> = nodes.iter().map(|n| n.local_addr().unwrap()).collect();
    Hall { proxy: Proxy::open(1, &real).unwrap(), nodes }
}

impl Hall {
    fn send(&self, from: usize, to: usize, bytes: &[u8]) {
        self.nodes[from].send_to(bytes, self.proxy.addresses()[to]).unwrap();
    }

    /// Everything that comes within 400 ms of silence.
    fn hear(&self, node: usize) -> Vec<(usize, Vec<u8>)> {
        let mut buffer = [0; 2048];
        let mut heard = Vec::new();
        while let Ok((length, source)) = self.nodes[node].recv_from(&mut buffer) {
            let from = self.proxy.addresses().iter().position(|a| *a == source).expect("from a door");
            heard.push((from, buffer[..length].to_vec()));
        }
        heard
    }
}

#[test]
fn a_datagram_comes_from_the_address_of_its_sender() {
    let hall = hall();
    hall.send(0, 1, b"from a");
    hall.send(2, 1, b"from c");
    let mut heard = hall.hear(1);
    heard.sort();
    assert_eq!(heard, [(0, b"from a".to_vec()), (2, b"from c".to_vec())]);
    // What b answers to where it heard a from reaches a, and only a.
    hall.send(1, 0, b"back");
    assert_eq!(hall.hear(0), [(1, b"back".to_vec())]);
    assert_eq!(hall.hear(2), []);
}

#[test]
fn a_cut_has_a_direction_and_an_end() {
    let hall = hall();
    hall.proxy.set(0, 1, Weather::CUT);
    hall.send(0, 1, b"lost");
    hall.send(1, 0, b"arrives");
    assert_eq!(hall.hear(1), []);
    assert_eq!(hall.hear(0), [(1, b"arrives".to_vec())]);
    hall.proxy.set(0, 1, Weather::default());
    hall.send(0, 1, b"again");
    assert_eq!(hall.hear(1), [(0, b"again".to_vec())]);
    assert_eq!(hall.proxy.counts().cut, 1);
}

#[test]
fn bad_weather_does_what_it_counts() {
    let hall = hall();
    hall.proxy.set_all(Weather {
        drop_permille: 200,
        duplicate_permille: 100,
        flip_permille: 100,
        delay_permille: 300,
        delay_max: Duration::from_millis(50),
        cut: false,
    });
    // Somebody reads all the time, so that no buffer overflows: such a loss would be the kernel's, not ours.
    let heard = std::thread::scope(|scope| {
        let reader = scope.spawn(|| hall.hear(1));
        for n in 0..1000u32 {
            hall.send(0, 1, &n.to_le_bytes());
            if n % 20 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        reader.join().unwrap()
    });
    let counts = hall.proxy.counts();
    assert_eq!(counts.taken, 1000);
    assert_eq!(counts.sent as usize, heard.len());
    assert_eq!(counts.taken + counts.duplicated - counts.dropped, counts.sent);
    assert!((150..250).contains(&counts.dropped) && (50..120).contains(&counts.duplicated), "{counts:?}");
    assert!((50..150).contains(&counts.flipped) && counts.overtaken > 50, "{counts:?}");
    let whole = heard.iter().map(|(_, b)| u32::from_le_bytes(b[..].try_into().unwrap())).collect::<Vec<_>>();
    assert!(whole.iter().any(|n| *n >= 1000), "no flipped bit was seen");
    assert!(whole.windows(2).any(|w| w[0] > w[1]), "nothing was overtaken");
}

#[test]
fn strangers_are_kept_out() {
    let hall = hall();
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.send_to(b"let me in", hall.proxy.addresses()[1]).unwrap();
    assert_eq!(hall.hear(1), []);
    assert_eq!(hall.proxy.counts(), Counts { strange: 1, ..Counts::default() });
}

#[test]
fn what_was_recorded_can_be_sent_again() {
    let hall = hall();
    hall.proxy.record();
    hall.proxy.set(0, 1, Weather::CUT);
    hall.send(0, 1, b"once");
    assert_eq!(hall.hear(1), []);
    let recorded = hall.proxy.recorded();
    assert_eq!(recorded, [Recorded { from: 0, to: 1, bytes: b"once".to_vec() }]);
    hall.proxy.inject(recorded[0].clone());
    assert_eq!(hall.hear(1), [(0, b"once".to_vec())]);
}
