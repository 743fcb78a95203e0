"use strict";
const charts = [];
for (const block of document.querySelectorAll("script[data-chart]")) {
  const spec = JSON.parse(block.textContent);
  Plotly.newPlot(block.dataset.chart, spec.data, spec.layout, { displayModeBar: false, responsive: true });
  charts.push(block.dataset.chart);
}
// A chart is drawn for the width of the window; paper is narrower and would cut it off.
addEventListener("beforeprint", () => charts.forEach((id) => Plotly.relayout(id, { autosize: false, width: 640 })));
addEventListener("afterprint", () => charts.forEach((id) => Plotly.relayout(id, { autosize: true, width: null })));
