"use strict";
for (const button of document.querySelectorAll(".command button")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    const code = button.previousElementSibling;
    const told = (words) => {
      button.textContent = words;
      setTimeout(() => { button.textContent = "copy"; }, 1500);
    };
    const select = () => {
      const range = document.createRange();
      range.selectNodeContents(code);
      const selection = getSelection();
      selection.removeAllRanges();
      selection.addRange(range);
      told(document.execCommand("copy") ? "copied" : "selected");
    };
    if (navigator.clipboard) {
      navigator.clipboard.writeText(code.textContent).then(() => told("copied"), select);
    } else {
      select();
    }
  });
}
