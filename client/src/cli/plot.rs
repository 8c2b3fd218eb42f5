//! `plot`: a job's loss curve as a PNG: training loss per step, faint and smoothed, and the held-out loss with its
//! standard error.

use std::path::Path;

use hone_client::{Client, v1};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::FontStyle;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde_json::json;

use crate::args::PlotArgs;
use crate::curve::{Curve, EvalPoint, smoothed};
use crate::failure::Failure;
use crate::follow::Ending;
use crate::human::count;
use crate::narrate::state_name;
use crate::output::Output;
use crate::train::write_whole;

/// Size of the picture, in pixels.
const SIZE: (u32, u32) = (1200, 700);
/// The picture is drawn this many times larger and averaged down: smooth lines without a drawing library of our own.
const SCALE: u32 = 3;

const INK: RGBColor = RGBColor(0x22, 0x2b, 0x38);
const FAINT_INK: RGBColor = RGBColor(0x6b, 0x76, 0x86);
const GRID: RGBColor = RGBColor(0xe6, 0xe9, 0xee);
const TRAIN: RGBColor = RGBColor(0x2f, 0x6f, 0xd0);
const HELD_OUT: RGBColor = RGBColor(0xe0, 0x6c, 0x1f);
const FONT: &str = "hone";

pub(crate) async fn run(args: PlotArgs, client: &Client, out: &Output) -> Result<Ending, Failure> {
    let job = client.get_job(&args.job).await?;
    let curve = Curve::of(&client.job(&args.job).events_so_far(0).await?);
    if curve.train().is_empty() && curve.eval().is_empty() {
        let hint = "wait for its first step; hone jobs watch shows when it comes";
        return Err(Failure::input_with_hint(format!("{}: there is no loss to draw yet", args.job), hint));
    }
    write_picture(&picture(&curve, &title(&job), &subtitle(&job, &curve))?, &args.output)?;
    if let Some(csv) = &args.csv {
        write_whole(csv, &curve.csv())?;
    }
    match out.json {
        true => out.print(&json!({ "output": args.output.to_string_lossy() }).to_string())?,
        false => out.print(&args.output.display().to_string())?,
    }
    Ok(Ending::Done)
}

fn title(job: &v1::Job) -> String {
    match job.spec.as_ref().map(|spec| spec.display_name.as_str()) {
        Some(name) if !name.is_empty() => format!("Loss of {name}"),
        _ => "Loss".to_owned(),
    }
}

fn subtitle(job: &v1::Job, curve: &Curve) -> String {
    let mut parts = vec![job.job_id.clone(), state_name(job.state).to_lowercase()];
    if let (Some(first), Some(last)) = (curve.eval().first(), curve.eval().last()) {
        parts.push(format!(
            "held-out loss {:.3} at step {}, {:.3} at step {}",
            first.loss, first.step, last.loss, last.step
        ));
    }
    parts.join("  ·  ")
}

/// The picture as RGB bytes, row by row.
fn picture(curve: &Curve, title: &str, subtitle: &str) -> Result<Vec<u8>, Failure> {
    for (style, bytes) in [(FontStyle::Normal, dejavu::sans::regular()), (FontStyle::Bold, dejavu::sans::bold())] {
        plotters::style::register_font(FONT, style, bytes).map_err(|_| undrawable("its font cannot be read"))?;
    }
    let (width, height) = (SIZE.0 * SCALE, SIZE.1 * SCALE);
    let mut large = vec![0; (width * height * 3) as usize];
    draw(BitMapBackend::with_buffer(&mut large, (width, height)), curve, title, subtitle)
        .map_err(|error| undrawable(&error.to_string()))?;
    Ok(averaged(&large))
}

type Chart<'a> = ChartContext<'a, BitMapBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw(backend: BitMapBackend<'_>, curve: &Curve, title: &str, subtitle: &str) -> Drawn {
    let root = backend.into_drawing_area();
    root.fill(&WHITE)?;
    root.draw(&Text::new(title.to_owned(), (px(32), px(24)), bold(24).color(&INK)))?;
    root.draw(&Text::new(subtitle.to_owned(), (px(32), px(58)), regular(14).color(&FAINT_INK)))?;

    let (train, eval) = (curve.train(), curve.eval());
    let (steps, losses) = ranges(&train, &eval);
    let plot = root.margin(px(92), px(16), px(16), px(36));
    let mut chart = ChartBuilder::on(&plot)
        .x_label_area_size(px(52))
        .y_label_area_size(px(76))
        .build_cartesian_2d(steps, losses)?;
    draw_axes(&mut chart)?;
    draw_train(&mut chart, &train)?;
    draw_eval(&mut chart, &eval)?;
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .margin(px(14))
        .legend_area_size(px(34))
        .background_style(WHITE.mix(0.9))
        .label_font(regular(15).color(&INK))
        .draw()?;
    root.present()?;
    Ok(())
}

fn draw_axes(chart: &mut Chart<'_>) -> Drawn {
    chart
        .configure_mesh()
        .bold_line_style(GRID.stroke_width(SCALE))
        .light_line_style(TRANSPARENT)
        .axis_style(FAINT_INK.stroke_width(SCALE))
        .label_style(regular(14).color(&FAINT_INK))
        .axis_desc_style(regular(15).color(&INK))
        .set_all_tick_mark_size(px(5))
        .x_labels(12)
        .y_labels(8)
        .x_label_formatter(&|step| count(step.round() as u64))
        .y_label_formatter(&|loss| format!("{loss:.2}"))
        .x_desc("optimizer steps")
        .y_desc("loss, in nats per token")
        .draw()?;
    Ok(())
}

/// Every step faintly, and a smooth line through them.
fn draw_train(chart: &mut Chart<'_>, train: &[(u64, f64)]) -> Drawn {
    if train.is_empty() {
        return Ok(());
    }
    let at = |point: &(u64, f64)| (point.0 as f64, point.1);
    let faint = TRAIN.mix(0.38).stroke_width(SCALE * 4 / 3);
    chart.draw_series(LineSeries::new(train.iter().map(at), faint))?;
    chart
        .draw_series(LineSeries::new(smoothed(train).iter().map(at), TRAIN.stroke_width(stroke())))?
        .label("training (faint: each step)")
        .legend(|(x, y)| PathElement::new([(x, y), (x + px(26), y)], TRAIN.stroke_width(stroke())));
    Ok(())
}

/// A point for each evaluation in a band of one standard error, the last one with its number.
fn draw_eval(chart: &mut Chart<'_>, eval: &[EvalPoint]) -> Drawn {
    let Some(last) = eval.last() else { return Ok(()) };
    let line = eval.iter().map(|point| (point.step as f64, point.loss));
    chart.draw_series(std::iter::once(Polygon::new(band(eval), HELD_OUT.mix(0.13).filled())))?;
    chart
        .draw_series(LineSeries::new(line.clone(), HELD_OUT.stroke_width(stroke())))?
        .label("held out ± standard error")
        .legend(|(x, y)| {
            EmptyElement::at((x, y))
                + PathElement::new([(0, 0), (px(26), 0)], HELD_OUT.stroke_width(stroke()))
                + Circle::new((px(13), 0), px(5), HELD_OUT.filled())
        });
    chart.draw_series(line.clone().map(|point| Circle::new(point, px(6), WHITE.filled())))?;
    chart.draw_series(line.map(|point| Circle::new(point, px(5), HELD_OUT.filled())))?;
    let style = bold(15).color(&HELD_OUT).pos(Pos::new(HPos::Right, VPos::Bottom));
    let number = Text::new(format!("{:.3}", last.loss), (0, -px(10)), style);
    chart.draw_series(std::iter::once(EmptyElement::at((last.step as f64, last.loss)) + number))?;
    Ok(())
}

fn regular(pixels: i32) -> FontDesc<'static> {
    FontDesc::new(FontFamily::Name(FONT), f64::from(px(pixels)), FontStyle::Normal)
}

fn bold(pixels: i32) -> FontDesc<'static> {
    FontDesc::new(FontFamily::Name(FONT), f64::from(px(pixels)), FontStyle::Bold)
}

/// What the axes span: all steps from 0, all losses with some room.
fn ranges(train: &[(u64, f64)], eval: &[EvalPoint]) -> (std::ops::Range<f64>, std::ops::Range<f64>) {
    let last = train.iter().map(|point| point.0).chain(eval.iter().map(|point| point.step)).max().unwrap_or_default();
    let edges = eval.iter().flat_map(|point| [point.loss - point.standard_error, point.loss + point.standard_error]);
    let losses = || train.iter().map(|point| point.1).chain(edges.clone());
    let (low, high) = (losses().fold(f64::INFINITY, f64::min), losses().fold(f64::NEG_INFINITY, f64::max));
    let room = ((high - low) * 0.06).max(0.02);
    (0.0..(last.max(1) as f64) * 1.015, (low - room).max(0.0)..high + room)
}

/// One standard error around the held-out loss, there above and back below.
fn band(eval: &[EvalPoint]) -> Vec<(f64, f64)> {
    let above = eval.iter().map(|point| (point.step as f64, point.loss + point.standard_error));
    let below = eval.iter().rev().map(|point| (point.step as f64, point.loss - point.standard_error));
    above.chain(below).collect()
}

/// Pixels of the picture in pixels of the drawing.
fn px(pixels: i32) -> i32 {
    pixels * SCALE as i32
}

/// Width of the lines that matter: two pixels and a half.
fn stroke() -> u32 {
    SCALE * 5 / 2
}

/// Each pixel of the picture is the mean of the drawing's pixels under it.
fn averaged(large: &[u8]) -> Vec<u8> {
    let row_bytes = (SIZE.0 * SCALE * 3) as usize;
    let scale = SCALE as usize;
    let mut small = Vec::with_capacity((SIZE.0 * SIZE.1 * 3) as usize);
    for rows in large.chunks_exact(row_bytes * scale) {
        for x in 0..SIZE.0 as usize {
            for channel in 0..3 {
                let under = (0..scale).flat_map(|dy| (0..scale).map(move |dx| (dx, dy)));
                let sum: u32 =
                    under.map(|(dx, dy)| u32::from(rows[dy * row_bytes + (x * scale + dx) * 3 + channel])).sum();
                small.push((sum / (SCALE * SCALE)) as u8);
            }
        }
    }
    small
}

/// Writes the picture as PNG, so that whoever reads the file finds all of it or nothing.
fn write_picture(rgb: &[u8], path: &Path) -> Result<(), Failure> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        return Err(Failure::file("write into", folder, missing));
    }
    // The encoder goes by the name's ending.
    let partial = folder.join(format!(".hone-{}.png", std::process::id()));
    {
        let mut backend = BitMapBackend::new(&partial, SIZE);
        backend.blit_bitmap((0, 0), SIZE, rgb).map_err(|error| undrawable(&error.to_string()))?;
        backend.present().map_err(|error| undrawable(&error.to_string()))?;
    }
    std::fs::rename(&partial, path).map_err(|error| Failure::file("write", path, error))
}

fn undrawable(detail: &str) -> Failure {
    Failure::input(format!("the picture cannot be drawn: {detail}"))
}

#[cfg(test)]
#[path = "plot_tests.rs"]
mod tests;
