//! Prints the services and destinations of this network namespace, as `ipvsadm -Ln` does.

use ipvs_rs::{Error, Ipvs};

fn main() -> Result<(), Error> {
    let mut ipvs = Ipvs::open()?;
    let (major, minor, patch) = ipvs.info()?.version;
    println!("IPVS {major}.{minor}.{patch}, {:?}", ipvs.timeouts()?);
    for service in ipvs.services()? {
        println!(
            "{} {} ({} connections)",
            service.key, service.scheduler, service.stats.connections
        );
        for each in ipvs.destinations(&service.key)? {
            println!(
                "  -> {} port {} {:?} weight {} active {} inactive {}",
                each.address,
                each.port,
                each.forward,
                each.weight,
                each.active_connections,
                each.inactive_connections,
            );
        }
    }
    Ok(())
}
