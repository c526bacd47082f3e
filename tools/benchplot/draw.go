package main

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// group is a heading on the axis and the rows below it.
type group struct {
	name string
	rows []row
}

type row struct {
	name  string
	ratio measured
}

// groups reads the picture's numbers from the document.
func (p picture) groups(document string) (groups []group, err error) {
	for _, title := range p.tables {
		t, err := findTable(document, title)
		if err != nil {
			return nil, err
		}
		rows, err := t.column(p.rows)
		if err != nil {
			return nil, err
		}
		by := -1
		if p.group != "" {
			if by, err = t.column(p.group); err != nil {
				return nil, err
			}
		}
		for _, cells := range t[1:] {
			name := title
			if by >= 0 {
				name = cells[by]
			}
			if len(groups) == 0 || groups[len(groups)-1].name != name {
				groups = append(groups, group{name: name})
			}
			if p.leave[cells[rows]] {
				continue
			}
			ratio, err := parseMeasured(cells[len(cells)-1-p.ratio])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", title, err)
			}
			short, known := p.names[cells[rows]]
			if !known {
				return nil, fmt.Errorf("%s: the row '%s' has no short name", title, cells[rows])
			}
			last := &groups[len(groups)-1]
			last.rows = append(last.rows, row{short, ratio})
		}
	}
	return groups, nil
}

// Colours that can be told from a light and from a dark background. Black is replaced in the dark:
// see theme.
var (
	faint    = color.RGBA{R: 0x9a, G: 0xa0, B: 0xa6, A: 0xff}
	thisOne  = color.RGBA{R: 0x1f, G: 0x88, B: 0xe5, A: 0xff}
	builtIn  = color.RGBA{R: 0xe6, G: 0x7e, B: 0x22, A: 0xff}
	theOther = color.RGBA{R: 0x8a, G: 0x8f, B: 0x98, A: 0xff}
)

func colorOf(name string) color.Color {
	switch {
	case strings.HasPrefix(name, "this module"):
		return thisOne
	case strings.HasPrefix(name, "built-in"):
		return builtIn
	default:
		return theOther
	}
}

const (
	width     vg.Length = 760
	lineSpace vg.Length = 17
)

// draw returns the picture as SVG: a point for each median, a line from quartile to quartile.
func (p picture) draw(document string) ([]byte, error) {
	groups, err := p.groups(document)
	if err != nil {
		return nil, err
	}
	chart := plot.New()
	chart.BackgroundColor = nil
	chart.X.Label.Text = p.title
	for _, style := range []*draw.TextStyle{&chart.X.Label.TextStyle, &chart.X.Tick.Label, &chart.Y.Tick.Label} {
		style.Font.Variant, style.Font.Size = "Sans", 12
	}
	chart.Y.LineStyle.Width, chart.Y.Tick.LineStyle.Width, chart.Y.Tick.Length = 0, 0, 0
	chart.Y.Padding = 0

	var ticks []plot.Tick
	y := 0.0 // the first line is at the top, so it counts down
	for i, g := range groups {
		if i > 0 {
			y--
		}
		ticks = append(ticks, plot.Tick{Value: y, Label: g.name + ":"})
		y--
		for _, r := range g.rows {
			if err := addRow(chart, r, y); err != nil {
				return nil, err
			}
			ticks = append(ticks, plot.Tick{Value: y, Label: r.name})
			y--
		}
	}
	slices.Reverse(ticks)
	chart.Y.Tick.Marker = plot.ConstantTicks(ticks)
	chart.Y.Min, chart.Y.Max = y, 1
	chart.X.Tick.Marker = ratioTicks{}
	margin := (max(chart.X.Max, 1) - chart.X.Min) / 25
	chart.X.Min, chart.X.Max = chart.X.Min-margin, max(chart.X.Max, 1)+margin

	one, err := plotter.NewLine(plotter.XYs{{X: 1, Y: y}, {X: 1, Y: 1}})
	if err != nil {
		return nil, err
	}
	one.Color, one.Dashes = faint, []vg.Length{3, 3}
	chart.Add(one)

	canvas := vgsvg.New(width, lineSpace*vg.Length(1-y)+50)
	chart.Draw(draw.New(canvas))
	var svg bytes.Buffer
	if _, err := canvas.WriteTo(&svg); err != nil {
		return nil, err
	}
	return theme(svg.Bytes()), nil
}

// ratioTicks labels an axis of ratios in steps of 0.05. The ticks that gonum has by default are
// labelled with too few digits.
type ratioTicks struct{}

func (ratioTicks) Ticks(low, high float64) (ticks []plot.Tick) {
	for i := int(math.Ceil(20 * low)); i <= int(20*high); i++ {
		ticks = append(ticks, plot.Tick{Value: float64(i) / 20, Label: fmt.Sprintf("%.2f", float64(i)/20)})
	}
	return ticks
}

func addRow(chart *plot.Plot, r row, y float64) error {
	spread, err := plotter.NewLine(plotter.XYs{{X: r.ratio.low, Y: y}, {X: r.ratio.high, Y: y}})
	if err != nil {
		return err
	}
	spread.Color, spread.Width = colorOf(r.name), 3
	middle, err := plotter.NewScatter(plotter.XYs{{X: r.ratio.median, Y: y}})
	if err != nil {
		return err
	}
	middle.Color, middle.Shape, middle.Radius = colorOf(r.name), draw.CircleGlyph{}, 5
	chart.Add(spread, middle)
	return nil
}

// dark makes what is black white where the reader's theme is dark. Programs that know no style
// sheets draw it in black.
const dark = `<style>
text { font-family: Arial, "Liberation Sans", Helvetica, sans-serif !important }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 !important }
path[style*="stroke:#000000"] { stroke: #e6edf3 !important }
}
</style>
`

// theme adds the style sheet behind the opening tag.
func theme(svg []byte) []byte {
	open := bytes.Index(svg, []byte("<svg"))
	end := open + bytes.IndexByte(svg[open:], '>') + 1
	return slices.Concat(svg[:end], []byte("\n"+dark), svg[end:])
}
