//! HTTP on loopback: metrics, and whether the node lives and is ready. Nothing can be changed here.
//!
//! Anybody on the machine may connect, and every connection takes a descriptor that a program would need to
//! attach. So there are few at a time, and one that says nothing ends soon.

use std::future::Future as _;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

use super::Console;
use super::metrics::{self, Form};
use oarlock_node::rights::{Kind, Role};

// Nobody knows who comes over HTTP, so nothing is served that not everybody may have.
const _: () =
    assert!(Role::Anybody.has(Kind::Metrics.right(), 0) && Role::Anybody.has(Kind::Health.right(), 0));

/// Connections at a time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 16;
/// How long a connection may say nothing.
const QUIET_MAX: Duration = Duration::from_secs(10);

/// Serves until the process ends.
pub(super) async fn serve(listener: TcpListener, console: Arc<Console>) {
    let app = Router::new()
        .route("/metrics", get(metrics_text))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state(console);
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => Few { listener, places: Arc::new(Semaphore::new(CONNECTIONS_MAX)) },
        Err(e) => return tracing::error!("no metrics: {e}"),
    };
    if let Err(e) = axum::serve(listener, app).await {
        tracing::error!("metrics ended: {e}");
    }
}

async fn metrics_text(State(console): State<Arc<Console>>, headers: HeaderMap) -> impl IntoResponse {
    let accepted: Vec<_> =
        headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let form = Form::wanted(&accepted.join(","));
    let failed = |status, why| (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], why);
    match console.snapshot().await {
        Ok(snapshot) => match metrics::text(snapshot, form) {
            Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, form.content_type())], text),
            Err(e) => failed(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
        },
        Err((_, why)) => failed(StatusCode::SERVICE_UNAVAILABLE, why),
    }
}

/// The engine turns.
async fn livez(State(console): State<Arc<Console>>) -> impl IntoResponse {
    match console.snapshot().await {
        Ok(_) => (StatusCode::OK, "ok\n".to_owned()),
        Err((_, why)) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n"),
    }
}

/// It grants locks. Members that are out are for `oarlock health`.
async fn readyz(State(console): State<Arc<Console>>) -> impl IntoResponse {
    match console.snapshot().await {
        Ok(s) if s.status.can_serve() => (StatusCode::OK, "ok\n".to_owned()),
        Ok(s) => {
            let why: Vec<_> =
                s.status.problems.iter().map(|(code, text)| format!("{code} {text}\n")).collect();
            (StatusCode::SERVICE_UNAVAILABLE, why.concat())
        }
        Err((code, why)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{code} {why}\n")),
    }
}

/// A listener with so many connections at a time.
struct Few {
    listener: tokio::net::TcpListener,
    places: Arc<Semaphore>,
}

impl axum::serve::Listener for Few {
    type Io = Guest;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Guest, SocketAddr) {
        let place = self.places.clone().acquire_owned().await.expect("nobody closes it");
        let (stream, from) = axum::serve::Listener::accept(&mut self.listener).await;
        (Guest { stream, quiet: Box::pin(sleep(QUIET_MAX)), _place: place }, from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection, its place, and its patience.
struct Guest {
    stream: TcpStream,
    quiet: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Guest {
    /// Something was said, in either direction; or nothing was, for too long.
    fn judge<T>(&mut self, cx: &mut Context<'_>, said: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if said.is_ready() {
            self.quiet.as_mut().reset(Instant::now() + QUIET_MAX);
            return said;
        }
        ready!(self.quiet.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let said = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.judge(cx, said)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let said = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.judge(cx, said)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
