//! Takes a destination out of all services without cutting its connections: no new ones, and it
//! leaves when the last has ended. `drain ADDRESS PORT`

use std::error::Error;
use std::thread::sleep;
use std::time::Duration;

use ipvs_rs::{Destination, DestinationKey, Ipvs, Request};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [address, port] = arguments.as_slice() else { return Err("ADDRESS PORT".into()) };
    let leaving = DestinationKey { address: address.parse()?, port: port.parse()? };
    let mut ipvs = Ipvs::open()?;
    for service in ipvs.services()? {
        let there = ipvs.destinations(&service.key)?;
        let Some(there) = there.into_iter().find(|each| each.key() == leaving) else { continue };
        let quiet = Destination { weight: 0, ..there };
        ipvs.submit(&[Request::SetDestination(service.key, quiet)])?;
        // An hour at most.
        for _ in 0..3600 {
            let there = ipvs.destinations(&service.key)?;
            let busy = there.iter().find(|each| each.key() == leaving);
            if busy.is_none_or(|it| it.active_connections + it.inactive_connections == 0) {
                break;
            }
            sleep(Duration::from_secs(1));
        }
        ipvs.submit(&[Request::DeleteDestination(service.key, leaving)])?;
        println!("{}: gone", service.key);
    }
    Ok(())
}
