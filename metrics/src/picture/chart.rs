//! A panel on paper: axes, lines, bands, legend.

use plotters::chart::{ChartContext, LabelAreaPosition};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::drawing::DrawingArea;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::Drawn;
use super::panel::{Look, Panel, Series};
use super::pen::{FAINT_INK, GRID, INK, Pen, WHITE_PAPER};

type Chart<'a, B> = ChartContext<'a, B, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Draws a panel over an area.
pub(super) fn draw<B: DrawingBackend>(panel: &Panel, area: &DrawingArea<B, Shift>, pen: Pen, is_large: bool) -> Drawn
where
    B::ErrorType: 'static,
{
    let title_size = if is_large { 17 } else { 14 };
    let title = pen.bold(title_size).color(&INK);
    area.draw(&Text::new(panel.title, (pen.px(24), pen.px(4)), title))?;
    let plot = area.margin(pen.px(title_size + 18), pen.px(10), pen.px(10), pen.px(20));
    let mut chart = ChartBuilder::on(&plot)
        .set_label_area_size(LabelAreaPosition::Bottom, pen.px(if is_large { 50 } else { 42 }))
        .set_label_area_size(LabelAreaPosition::Left, pen.px(if is_large { 66 } else { 58 }))
        .build_cartesian_2d(panel.steps.0..panel.steps.1, panel.values.0..panel.values.1)?;
    draw_axes(&mut chart, panel, pen, is_large)?;
    for series in &panel.series {
        draw_series(&mut chart, series, pen, is_large)?;
    }
    let labels = panel.series.iter().filter(|series| series.label.is_some()).count();
    if labels > 1 || (is_large && labels > 0) {
        draw_legend(&mut chart, panel, pen, is_large)?;
    }
    Ok(())
}

fn draw_axes<'a, B: DrawingBackend + 'a>(chart: &mut Chart<'a, B>, panel: &Panel, pen: Pen, is_large: bool) -> Drawn
where
    B::ErrorType: 'static,
{
    let (labels, small) = if is_large { (12, 14) } else { (6, 12) };
    let span = panel.values.1 - panel.values.0;
    let value = |value: &f64| number(*value, span, panel.is_tiny);
    chart
        .configure_mesh()
        .bold_line_style(GRID.stroke_width(pen.stroke(10)))
        .light_line_style(TRANSPARENT)
        .axis_style(FAINT_INK.stroke_width(pen.stroke(10)))
        .label_style(pen.regular(small).color(&FAINT_INK))
        .axis_desc_style(pen.regular(small).color(&FAINT_INK))
        .set_all_tick_mark_size(pen.px(4))
        // No more labels than steps: there is no step and a half.
        .x_labels(labels.min(panel.steps.1 as usize + 1).max(2))
        .y_labels(if is_large { 8 } else { 5 })
        .x_label_formatter(&|step| number(step.round(), f64::INFINITY, false))
        .y_label_formatter(&value)
        .x_desc("optimizer steps")
        .draw()?;
    Ok(())
}

fn draw_series<'a, B: DrawingBackend + 'a>(chart: &mut Chart<'a, B>, series: &Series, pen: Pen, is_large: bool) -> Drawn
where
    B::ErrorType: 'static,
{
    let colour = series.colour;
    let stroke = pen.stroke(match (&series.look, is_large) {
        (Look::Faint, _) => 12,
        (Look::Thin, _) => 16,
        (Look::Line | Look::Dots { .. }, true) => 25,
        (Look::Line | Look::Dots { .. }, false) => 20,
    });
    let style = match series.look {
        Look::Faint => colour.mix(0.35).stroke_width(stroke),
        _ => colour.stroke_width(stroke),
    };
    if let Look::Dots { errors } = &series.look {
        chart.draw_series(std::iter::once(Polygon::new(band(&series.points, errors), colour.mix(0.14).filled())))?;
    }
    let line = chart.draw_series(LineSeries::new(series.points.iter().copied(), style))?;
    if let Some(label) = series.label {
        let (length, dot) = (pen.px(22), pen.px(if series.has_dots() { 4 } else { 0 }));
        line.label(label).legend(move |(x, y)| {
            EmptyElement::at((x, y))
                + PathElement::new([(0, 0), (length, 0)], style)
                + Circle::new((length / 2, 0), dot, colour.filled())
        });
    }
    if series.has_dots() {
        draw_dots(chart, series, pen, is_large)?;
    }
    Ok(())
}

/// A point for each evaluation, the last one with its number.
fn draw_dots<'a, B: DrawingBackend + 'a>(chart: &mut Chart<'a, B>, series: &Series, pen: Pen, is_large: bool) -> Drawn
where
    B::ErrorType: 'static,
{
    let points = || series.points.iter().copied();
    let radius = pen.px(if is_large { 4 } else { 3 });
    chart.draw_series(points().map(|point| Circle::new(point, radius + pen.px(1), WHITE_PAPER.filled())))?;
    chart.draw_series(points().map(|point| Circle::new(point, radius, series.colour.filled())))?;
    if let (Some(last), true) = (series.points.last(), is_large) {
        let style = pen.bold(14).color(&series.colour).pos(Pos::new(HPos::Right, VPos::Bottom));
        let text = Text::new(format!("{:.3}", last.1), (0, -pen.px(9)), style);
        chart.draw_series(std::iter::once(EmptyElement::at(*last) + text))?;
    }
    Ok(())
}

fn draw_legend<'a, B: DrawingBackend + 'a>(chart: &mut Chart<'a, B>, panel: &Panel, pen: Pen, is_large: bool) -> Drawn
where
    B::ErrorType: 'static,
{
    let place = if panel.rises { SeriesLabelPosition::LowerRight } else { SeriesLabelPosition::UpperRight };
    chart
        .configure_series_labels()
        .position(place)
        .margin(pen.px(10))
        .legend_area_size(pen.px(30))
        .background_style(WHITE_PAPER.mix(0.85))
        .label_font(pen.regular(if is_large { 14 } else { 12 }).color(&INK))
        .draw()?;
    Ok(())
}

impl Series {
    fn has_dots(&self) -> bool {
        matches!(self.look, Look::Dots { .. })
    }
}

/// One standard error around the points, there above and back below.
fn band(points: &[(f64, f64)], errors: &[f64]) -> Vec<(f64, f64)> {
    let both = || points.iter().zip(errors);
    let above = both().map(|(point, error)| (point.0, point.1 + error));
    let below = both().rev().map(|(point, error)| (point.0, point.1 - error));
    above.chain(below).collect()
}

/// A number on an axis that spans so much.
pub(super) fn number(value: f64, span: f64, is_tiny: bool) -> String {
    match span {
        _ if value == 0.0 => "0".to_owned(),
        _ if is_tiny => format!("{value:.1e}").replace(".0e", "e"),
        span if span < 0.1 => format!("{value:.3}"),
        span if span < 5.0 => format!("{value:.2}"),
        span if span < 50.0 => format!("{value:.1}"),
        _ => grouped(value),
    }
}

/// A whole number with its thousands apart.
fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 { format!("-{text}") } else { text }
}
