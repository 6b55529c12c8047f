// Sorting, filtering and enlarging; the page says everything without it.
(function () {
  "use strict";
  function value(row, column) {
    var text = row.cells[column] ? row.cells[column].textContent.trim() : "";
    var found = text.replace(/[\u2212]/g, "-").replace(/,/g, "").match(/^[+-]?\d+(\.\d+)?/);
    return found ? parseFloat(found[0]) : text.toLowerCase();
  }
  function sort(table, column, button) {
    var body = table.tBodies[0];
    var up = button.getAttribute("aria-sort") !== "ascending";
    Array.prototype.forEach.call(table.tHead.rows[0].cells, function (cell) { cell.removeAttribute("aria-sort"); });
    button.setAttribute("aria-sort", up ? "ascending" : "descending");
    var rows = Array.prototype.slice.call(body.rows);
    rows.sort(function (a, b) {
      var x = value(a, column), y = value(b, column);
      if (typeof x !== typeof y) { return typeof x === "number" ? -1 : 1; }
      return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1);
    });
    rows.forEach(function (row) { body.appendChild(row); });
  }
  document.querySelectorAll("table[data-sortable]").forEach(function (table) {
    Array.prototype.forEach.call(table.tHead.rows[0].cells, function (cell, column) {
      if (!cell.textContent.trim()) { return; }
      var button = document.createElement("button");
      button.type = "button";
      button.textContent = cell.textContent;
      button.title = "Sort by this column";
      cell.textContent = "";
      cell.appendChild(button);
      button.addEventListener("click", function () { sort(table, column, cell); });
    });
  });
  document.querySelectorAll("table[data-filter]").forEach(function (table) {
    var label = document.createElement("label");
    label.className = "filter";
    label.textContent = "Show rows with ";
    var input = document.createElement("input");
    input.type = "search";
    label.appendChild(input);
    table.parentNode.parentNode.insertBefore(label, table.parentNode);
    input.addEventListener("input", function () {
      var wanted = input.value.toLowerCase();
      Array.prototype.forEach.call(table.tBodies[0].rows, function (row) {
        row.hidden = row.textContent.toLowerCase().indexOf(wanted) < 0;
      });
    });
  });
  var dialog = document.getElementById("zoom");
  var picture = document.createElement("img");
  dialog.insertBefore(picture, dialog.querySelector("p"));
  document.querySelectorAll("button.tile").forEach(function (button) {
    button.addEventListener("click", function () {
      var image = button.querySelector("img");
      picture.src = image.src;
      picture.alt = image.alt;
      dialog.querySelector("p").textContent = image.alt;
      dialog.showModal();
    });
  });
  dialog.addEventListener("click", function (event) {
    if (event.target === dialog || event.target.className === "close") { dialog.close(); }
  });
  window.addEventListener("beforeprint", function () {
    document.querySelectorAll("details").forEach(function (details) { details.open = true; });
  });
})();
