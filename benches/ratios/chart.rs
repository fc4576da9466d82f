//! The chart: a bar a server for what a request costs, shorter is better.

use std::fmt::Write;

use crate::report::Figure;

/// The workloads that are drawn, one below the other.
const DRAWN: [(&str, &str); 2] = [
    ("keep-alive", "Keep-alive GET: CPU time a request, µs"),
    (
        "new-connection",
        "New connection a request: CPU time a request, µs",
    ),
];

/// An SVG that follows the reader's light or dark theme.
pub(crate) fn draw(figures: &[Figure]) -> String {
    let mut body = String::new();
    let mut y = MARGIN;
    for (workload, title) in DRAWN {
        let mut bars: Vec<&Figure> = figures
            .iter()
            .filter(|figure| figure.workload == workload)
            .collect();
        if bars.is_empty() {
            continue;
        }
        bars.sort_by(|a, b| a.cost_us.total_cmp(&b.cost_us));
        y += BAR;
        let _ = writeln!(
            body,
            r#"<text class="title" x="{MARGIN}" y="{y}">{title}</text>"#
        );
        y += MARGIN;
        let costs = (bars[0].cost_us, bars[bars.len() - 1].cost_us);
        let longest = costs.1.min(costs.0 * CUT);
        for figure in bars {
            bar(&mut body, figure, y, figure.cost_us / longest);
            y += BAR + GAP;
        }
        y += MARGIN;
    }
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" role="img" aria-label="CPU time a request of each server">
<style>
text {{ font: 13px system-ui, sans-serif; fill: #24292f; }}
.title {{ font-weight: 600; }}
.name {{ text-anchor: end; }}
.ours {{ fill: #c2410c; }}
.other {{ fill: #94a3b8; }}
@media (prefers-color-scheme: dark) {{ text {{ fill: #e6edf3; }} .other {{ fill: #64748b; }} }}
</style>
{body}</svg>
"#
    )
}

fn bar(body: &mut String, figure: &Figure, y: u32, share: f64) {
    let length = f64::from(LONGEST) * share.min(1.0);
    let cut = if share > 1.0 { "… " } else { "" };
    let class = if figure.server.starts_with("axum-cluster") {
        "ours"
    } else {
        "other"
    };
    let baseline = y + BAR * 3 / 4;
    let name_end = NAMES - GAP;
    let value_at = f64::from(NAMES + GAP) + length;
    let (server, cost) = (figure.server.replace('`', ""), figure.cost_us);
    let _ = writeln!(
        body,
        r#"<text class="name" x="{name_end}" y="{baseline}">{server}</text><rect class="{class}" x="{NAMES}" y="{y}" width="{length:.1}" height="{BAR}" rx="2"/><text x="{value_at:.1}" y="{baseline}">{cut}{cost:.1}</text>"#
    );
}

const WIDTH: u32 = 760;
const MARGIN: u32 = 12;
const BAR: u32 = 18;
const GAP: u32 = 6;
/// Where bars begin.
const NAMES: u32 = 230;
const LONGEST: u32 = 460;
/// Bars of more than so many times the shortest are cut: beside them nothing else could be told apart.
const CUT: f64 = 8.0;
