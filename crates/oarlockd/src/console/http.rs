//! HTTP on loopback: metrics, and whether the node lives and is ready. Nothing can be changed here.

use std::net::TcpListener;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use super::{Console, metrics};

/// Serves until the process ends.
pub(super) async fn serve(listener: TcpListener, console: Arc<Console>) {
    let app = Router::new()
        .route("/metrics", get(metrics_text))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state(console);
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(e) => return tracing::error!("no metrics: {e}"),
    };
    if let Err(e) = axum::serve(listener, app).await {
        tracing::error!("metrics ended: {e}");
    }
}

async fn metrics_text(State(console): State<Arc<Console>>) -> impl IntoResponse {
    let kind = [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    match console.snapshot().await {
        Ok(snapshot) => match metrics::text(snapshot) {
            Ok(text) => (StatusCode::OK, kind, text),
            Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, kind, e.to_string()),
        },
        Err((_, why)) => (StatusCode::SERVICE_UNAVAILABLE, kind, why),
    }
}

/// The engine turns.
async fn livez(State(console): State<Arc<Console>>) -> impl IntoResponse {
    match console.snapshot().await {
        Ok(_) => (StatusCode::OK, "ok\n".to_owned()),
        Err((_, why)) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n"),
    }
}

/// It serves and hears every member.
async fn readyz(State(console): State<Arc<Console>>) -> impl IntoResponse {
    match console.snapshot().await {
        Ok(s) if s.status.is_well() => (StatusCode::OK, "ok\n".to_owned()),
        Ok(s) => {
            let why: Vec<_> =
                s.status.problems.iter().map(|(code, text)| format!("{code} {text}\n")).collect();
            (StatusCode::SERVICE_UNAVAILABLE, why.concat())
        }
        Err((code, why)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{code} {why}\n")),
    }
}
