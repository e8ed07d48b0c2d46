//! The picture: bars on logarithmic scales, shunt beside kube-proxy.

use std::fmt::Write as _;

use crate::figures::{ProxyResult, Results, percentile};
use crate::table::{mib, ms};

const WIDTH: f64 = 820.0;
/// Where bars begin and how far they may reach; what they are worth is written behind them.
const LEFT: f64 = 150.0;
const RIGHT: f64 = 700.0;
const BAR: f64 = 13.0;

/// What is drawn of each proxy.
struct Panel {
    title: &'static str,
    value: fn(&ProxyResult) -> f64,
    unit: fn(f64) -> String,
}

const PANELS: [Panel; 4] = [
    Panel { title: "Start to last rule", value: ProxyResult::start_ms, unit: ms },
    Panel {
        title: "One endpoint changed: request to the API server until the kernel has it, median",
        value: change,
        unit: ms,
    },
    Panel { title: "Resident memory after the start", value: resident, unit: mib },
    Panel { title: "CPU time of the start, nft processes included", value: cpu, unit: ms },
];

fn change(proxy: &ProxyResult) -> f64 {
    let all: Vec<_> = proxy.changes.iter().map(|change| change.from_request_us / 1e3).collect();
    percentile(&all, 50)
}

fn resident(proxy: &ProxyResult) -> f64 {
    number(proxy.after_sync.resident_kib)
}

fn cpu(proxy: &ProxyResult) -> f64 {
    number(proxy.after_sync.all_cpu_ms())
}

fn number(value: u64) -> f64 {
    f64::from(u32::try_from(value).unwrap_or(u32::MAX))
}

/// Draws it.
pub(crate) fn draw(results: &Results) -> String {
    let mut body = String::new();
    let mut y = 46.0;
    for panel in &PANELS {
        y = draw_panel(&mut body, panel, results, y);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\" width=\"{WIDTH}\" \
         role=\"img\" aria-label=\"shunt beside kube-proxy, logarithmic scales\">\n\
         <style>\n\
         text {{ font: 12px system-ui, sans-serif; fill: #24292f }}\n\
         .title {{ font-weight: 600 }}\n\
         .small {{ font-size: 10px; fill: #57606a }}\n\
         .grid {{ stroke: #d0d7de }}\n\
         .shunt {{ fill: #0969da }}\n\
         .other {{ fill: #bf8700 }}\n\
         @media (prefers-color-scheme: dark) {{\n\
         text {{ fill: #e6edf3 }} .small {{ fill: #9198a1 }} .grid {{ stroke: #3d444d }}\n\
         .shunt {{ fill: #58a6ff }} .other {{ fill: #d29922 }}\n\
         }}\n\
         </style>\n\
         <rect class=\"shunt\" x=\"{LEFT}\" y=\"12\" width=\"12\" height=\"12\"/>\
         <text x=\"168\" y=\"22\">shunt</text>\n\
         <rect class=\"other\" x=\"230\" y=\"12\" width=\"12\" height=\"12\"/>\
         <text x=\"248\" y=\"22\">kube-proxy, nftables mode</text>\n\
         <text class=\"small\" x=\"430\" y=\"22\">logarithmic scales: from line to line it is ten times as much</text>\n\
         {body}</svg>\n"
    )
}

/// Draws a panel from `top` on; returns where the next begins.
fn draw_panel(out: &mut String, panel: &Panel, results: &Results, top: f64) -> f64 {
    let mut bars = Vec::new();
    for size in &results.sizes {
        bars.push((size.name(), "shunt", (panel.value)(&size.shunt)));
        if let Some(proxy) = &size.kube_proxy {
            bars.push((String::new(), "other", (panel.value)(proxy)));
        }
    }
    bars.retain(|(_, _, value)| *value > 0.0);
    let least = bars.iter().map(|(_, _, value)| value.log10()).fold(f64::INFINITY, f64::min);
    let most = bars.iter().map(|(_, _, value)| value.log10()).fold(f64::NEG_INFINITY, f64::max);
    // The shortest bar still shows, and the longest ends before its label.
    let (low, high) = ((least - 0.3).floor(), (most + 0.05).max(least + 1.0));
    let at = |decades: f64| LEFT + (RIGHT - LEFT) * (decades - low) / (high - low);
    let _ = writeln!(
        out,
        "<text class=\"title\" x=\"8\" y=\"{:.1}\">{}</text>",
        top + 12.0,
        panel.title
    );
    let first = top + 22.0;
    let mut y = first;
    let mut drawn = String::new();
    for (name, class, value) in &bars {
        if !name.is_empty() {
            y += 5.0;
            let _ = writeln!(drawn, "<text x=\"8\" y=\"{:.1}\">{name}</text>", y + BAR + 4.0);
        }
        let end = at(value.log10());
        let _ = writeln!(
            drawn,
            "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            end - LEFT,
            end + 6.0,
            y + BAR - 2.5,
            (panel.unit)(*value)
        );
        y += BAR + 2.0;
    }
    let mut decade = low;
    while decade <= high {
        let x = at(decade);
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{first:.1}\" y2=\"{y:.1}\"/>"
        );
        decade += 1.0;
    }
    out.push_str(&drawn);
    y + 18.0
}
