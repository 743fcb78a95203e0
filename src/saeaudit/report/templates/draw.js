"use strict";
const charts = [];
function draw(block) {
  const spec = JSON.parse(block.textContent);
  Plotly.newPlot(block.dataset.chart, spec.data, spec.layout, { displayModeBar: false, responsive: true });
  charts.push(block.dataset.chart);
}
for (const block of document.querySelectorAll("script[data-chart]")) {
  // A chart in a folded part has no width before it is opened.
  const folded = block.closest("details:not([open])");
  if (folded) folded.addEventListener("toggle", () => draw(block), { once: true });
  else draw(block);
}
// A chart is drawn for the width of the window; paper is narrower and would cut it off.
addEventListener("beforeprint", () => charts.forEach((id) => Plotly.relayout(id, { autosize: false, width: 640 })));
addEventListener("afterprint", () => charts.forEach((id) => Plotly.relayout(id, { autosize: true, width: null })));
