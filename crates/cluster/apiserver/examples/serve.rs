//! Runs an API server alone, for trying `kubectl` on it: `serve DIRECTORY [PORT]`.

use dhow_apiserver::{ApiServer, Config};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt::init();
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("usage: serve DIRECTORY [PORT]")?;
    let port = arguments.next().map_or(Ok(0), |port| port.parse())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let mut config = Config::new(directory.into());
    config.port = listener.local_addr()?.port();
    let kubeconfig = config.directory.join("admin.conf");
    let server = ApiServer::open(config).await?;
    let url = format!("https://{}", listener.local_addr()?);
    server.write_admin_kubeconfig(&url, &kubeconfig)?;
    println!("export KUBECONFIG={}", kubeconfig.display());
    let stop = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    server.run(listener, stop).await?;
    Ok(())
}
