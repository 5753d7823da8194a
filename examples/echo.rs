//! A UDP echo server: sends every datagram back to where it came from, until SIGTERM or SIGINT;
//! then it answers what is queued still. It takes what has come and answers it in one call, which
//! costs less than a call for each.
//!
//! ```text
//! cargo run --release --example echo -- 127.0.0.1:7777
//! ```

use std::io;

use clap::Parser;
use ebbtide::net::{Transmit, UdpSocket};

/// Sends every datagram back to where it came from, until SIGTERM or SIGINT
#[derive(Parser)]
#[command(name = "echo")]
struct Options {
    /// Where to receive
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:7777")]
    address: String,
}

fn main() -> io::Result<()> {
    let Options { address } = Options::parse();
    ebbtide::run(async {
        let drained = ebbtide::signal::drain_on_terminate()?;
        let socket = UdpSocket::bind(address)?;
        println!("echoing on {}", socket.local_addr()?);
        let mut requests = Vec::new();
        while socket.recv_batch(&mut requests, 64).await? > 0 {
            let answers: Vec<_> =
                requests.iter().map(|request| Transmit::to(request, request.peer())).collect();
            answer(&socket, &answers).await;
            drop(answers);
            requests.clear();
        }
        println!("{}", drained.await?);
        Ok(())
    })
}

/// Sends all, but for those that cannot be sent.
async fn answer(socket: &UdpSocket, mut answers: &[Transmit<'_>]) {
    while !answers.is_empty() {
        let dealt_with = match socket.send_batch(answers).await {
            Ok(sent) => sent,
            Err(error) => {
                eprintln!("an answer was not sent: {error}");
                1
            }
        };
        answers = &answers[dealt_with..];
    }
}
