// Browsers break lines after hyphens. In sentences, tables and shell commands, this keeps options such as `--resume` on
// one line. Copied text is not changed.
document.addEventListener("DOMContentLoaded", () => {
  for (const code of document.querySelectorAll("article :is(:not(pre) > code, .language-bash code)")) {
    const texts = document.createTreeWalker(code, NodeFilter.SHOW_TEXT);
    const nodes = [];
    while (texts.nextNode()) nodes.push(texts.currentNode);
    for (const node of nodes) {
      const parts = node.data.split(/((?<!\S)-[\w-]+)/);
      if (parts.length === 1) continue;
      node.replaceWith(
        ...parts.map((part, index) => {
          if (index % 2 === 0) return part;
          const option = document.createElement("span");
          option.style.whiteSpace = "nowrap";
          option.textContent = part;
          return option;
        }),
      );
    }
  }
});
