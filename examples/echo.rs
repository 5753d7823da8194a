//! A UDP echo server: sends every datagram back to where it came from, until SIGTERM or SIGINT;
//! then it answers what is queued still.
//!
//! ```text
//! cargo run --release --example echo -- 127.0.0.1:7777
//! ```

use std::io;

use ebbtide::net::UdpSocket;

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7777".to_owned());
    ebbtide::run(async {
        let terminate = ebbtide::signal::terminate();
        let socket = UdpSocket::bind(address)?;
        println!("echoing on {}", socket.local_addr()?);
        let echo = ebbtide::spawn(async move {
            while let Some(datagram) = socket.recv().await? {
                let peer = datagram.peer();
                if let Err(error) = socket.send_to(&datagram, peer).await {
                    eprintln!("no answer to {peer}: {error}");
                }
            }
            io::Result::Ok(())
        });
        terminate.await?;
        println!("{}", ebbtide::drain().await);
        echo.await?
    })
}
