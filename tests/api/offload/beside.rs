//! The metadata of received datagrams, and of datagrams to send.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use ebbtide::Runtime;
use ebbtide::net::{EcnCodepoint, Transmit, UdpSocket};
use ebbtide_testkit::{Shape, on_every_shape, run};

on_every_shape!(what_was_asked_for_comes_with_each_datagram, a_datagram_leaves_as_it_was_asked,);

fn what_was_asked_for_comes_with_each_datagram(shape: Shape) {
    run(&shape.runtime(), async {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let options = UdpSocket::options().recv_ecn(true).recv_dst_ip(true);
            let receiver =
                options.recv_timestamp(true).recv_drop_count(true).bind(address).unwrap();
            let peer = receiver.local_addr().unwrap();
            let sender = UdpSocket::bind(address).unwrap();
            let before = SystemTime::now() - Duration::from_secs(1);
            let marked = Transmit::to(b"hello", peer).ecn(EcnCodepoint::Ce);
            sender.transmit(marked).await.unwrap();
            sender.send_to(b"hello", peer).await.unwrap();
            for ecn in [Some(EcnCodepoint::Ce), None] {
                let datagram = receiver.recv().await.unwrap().expect("not drained");
                assert_eq!(&datagram[..], b"hello");
                assert_eq!((datagram.ecn(), datagram.dst_ip()), (ecn, Some(peer.ip())));
                assert_eq!(datagram.peer(), sender.local_addr().unwrap());
                assert!(datagram.interface_index().is_some_and(|index| index > 0));
                assert!(datagram.timestamp().is_some_and(|time| time > before));
                // The kernel reports a count only after it has dropped something.
                assert_eq!(datagram.drop_count(), None);
            }
            // Sent as a train, whose datagrams have the metadata as well. The length in the train
            // must not be cut off.
            let marked = Transmit::to(&[7; 500], peer).segment_size(100).ecn(EcnCodepoint::Ect1);
            sender.transmit(marked).await.unwrap();
            for _ in 0..5 {
                let datagram = receiver.recv().await.unwrap().expect("not drained");
                assert_eq!(
                    (&datagram[..], datagram.ecn()),
                    (&[7; 100][..], Some(EcnCodepoint::Ect1))
                );
                assert!(!datagram.is_truncated() && datagram.timestamp().is_some());
            }
        }
    });
}

#[test]
fn the_kernels_drops_are_told_with_the_next_datagram() {
    run(&Runtime::new().unwrap(), async {
        let options = UdpSocket::options().recv_drop_count(true).recv_buffer_size(4096);
        let receiver = options.bind("127.0.0.1:0").unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        (0..200).for_each(|_| drop(sender.send(&[0; 100])));
        let mut received = 0;
        while receiver.try_recv().is_ok() {
            received += 1;
        }
        sender.send(b"after").unwrap();
        let last = receiver.recv().await.unwrap().expect("not drained");
        assert_eq!(last.drop_count(), Some(200 - received));
        assert_eq!(receiver.stats().dropped_by_kernel, u64::from(200 - received));
    });
}

fn a_datagram_leaves_as_it_was_asked(shape: Shape) {
    run(&shape.runtime(), async {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = UdpSocket::bind("0.0.0.0:0").unwrap();
        let peer = receiver.local_addr().unwrap();
        for ip in [[127, 0, 0, 7], [127, 1, 2, 3]] {
            let transmit = Transmit::to(b"from there", peer).src_ip(ip.into());
            assert_eq!(sender.transmit(transmit).await.unwrap(), 10);
            let datagram = receiver.recv().await.unwrap().expect("not drained");
            let expected = SocketAddr::from((ip, sender.local_addr().unwrap().port()));
            assert_eq!(datagram.peer(), expected);
        }
    });
}
